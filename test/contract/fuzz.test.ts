import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fuzzOperation, neverSucceeded, operations, type Tally } from './fuzz.ts';
import { makeWorld, type World } from './fuzz-world.ts';

/** Requests to each operation as each caller; `npm run soak` sends more. */
const RUNS = 2;
const SEED = Number(process.env['FUZZ_SEED'] ?? 20_260_501);

describe('every answer is one that the contract has', () => {
  const tally: Tally = new Map();
  let world: World;
  beforeAll(async () => {
    world = await makeWorld();
  });
  afterAll(() => world.close());

  it.each(operations.map((operation) => [operation.id, operation] as const))('%s', (_, operation) =>
    fuzzOperation({ world, tally, seed: SEED, runs: RUNS }, operation),
  );

  it('and each operation has succeeded at least once', () => {
    expect(neverSucceeded(tally)).toEqual([]);
  });

  it('or the run names the seed and the request that showed another', async () => {
    const promised = operations.find(({ id }) => id === 'getMailDomain')!;
    const { 403: _forgotten, ...responses } = promised.spec['responses'];
    const operation = { ...promised, spec: { ...promised.spec, responses } };
    const found = fuzzOperation({ world, tally: new Map(), seed: SEED, runs: 1 }, operation);
    await expect(found).rejects.toThrow(/status 403 is not documented/);
    await expect(found).rejects.toThrow(`(FUZZ_SEED=${SEED})`);
    const curl =
      /curl -i -X GET 'http:\S+\/api\/v1\/domains\/\d+' -H 'X-API-Key: KEY \(quarantine-only\)'/;
    await expect(found).rejects.toThrow(curl);
  });
});
