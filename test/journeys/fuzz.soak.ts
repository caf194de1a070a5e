import { expect, it } from 'vitest';
import {
  type Fuzzing,
  figures,
  fuzzOperation,
  neverSucceeded,
  operations,
} from '../contract/fuzz.ts';
import { makeWorld } from '../contract/fuzz-world.ts';

/** Requests to each operation as each caller. */
const RUNS = Number(process.env['FUZZ_RUNS'] ?? 100);
const SEED = Number(process.env['FUZZ_SEED'] ?? Date.now() % 1_000_000);

it(`is answered as the contract says, ${RUNS} times as each caller`, async () => {
  const world = await makeWorld();
  const fuzzing: Fuzzing = { world, tally: new Map(), seed: SEED, runs: RUNS };
  const failures: string[] = [];
  try {
    for (const operation of operations) {
      await fuzzOperation(fuzzing, operation).catch((error: Error) => {
        failures.push(`${operation.id}: ${error.message}`);
      });
      // The whole log of a long run would fill the memory.
      world.t.logged.length = 0;
    }
    expect(failures).toEqual([]);
    expect(neverSucceeded(fuzzing.tally)).toEqual([]);
  } finally {
    process.stdout.write(`${figures(fuzzing)}, failures ${failures.length}\n`);
    await world.close();
  }
});
