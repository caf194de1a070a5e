import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    pool: 'forks',
    // Most of a test is waiting for the database, for sockets and for timers: on two cores a third has room.
    maxWorkers: 3,
    // Each file has its own database, gateway and directories; to load the program anew for each took a sixth of the run.
    isolate: false,
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
