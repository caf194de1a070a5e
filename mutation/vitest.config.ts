import { defineConfig } from 'vitest/config';

/** Only what needs no database, no socket and no clock: these tests run once for every mutant. */
export default defineConfig({
  test: {
    include: ['test/domain/**/*.test.ts', 'test/integrity/**/*.test.ts', 'test/cidr-text.test.ts'],
    // Random lives take seconds, and every rule that they meet by chance has an example of its own.
    exclude: ['test/domain/quarantine-lives.test.ts'],
    setupFiles: ['mutation/same-chance.ts'],
    testTimeout: 30_000,
  },
});
