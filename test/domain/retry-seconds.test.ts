import { expect, it } from 'vitest';
import { RETRY_SECONDS } from '../../src/domain/quarantine-transfers.ts';

// Apart from the tests that reckon with them: those cannot even be listed without.
it('a transfer that is put off is tried for about a day', () =>
  expect(RETRY_SECONDS).toEqual([
    5, 30, 60, 300, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 28_800,
  ]));
