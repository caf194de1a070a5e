import { afterAll, expect, it } from 'vitest';
import { acknowledged, CRASH_KINDS, crashRound, emptyBook } from '../support/crash.ts';
import { cleanUp, makeHome, startProgram } from '../support/program.ts';

/** Rounds of the crash test, by turns of the gateway, its database, and both. */
const ROUNDS = Number(process.env['CRASH_ROUNDS'] ?? 100);

afterAll(cleanUp, 120_000);

it(`survives ${ROUNDS} crashes under load`, async () => {
  const home = makeHome();
  const book = emptyBook();
  const begin = performance.now();
  const recoveries: number[] = [];
  let program = await startProgram(home);
  let events = 0;
  let rounds = 0;
  let lost = 0;
  let duplicates = 0;
  try {
    while (rounds < ROUNDS) {
      const kind = CRASH_KINDS[rounds % CRASH_KINDS.length] ?? 'both';
      const result = await crashRound(kind, { program, home, book });
      ({ program, events } = result);
      rounds += 1;
      recoveries.push(result.recoveryMs);
      lost += result.verdict.lost.length;
      duplicates += result.verdict.duplicates.length;
      expect([rounds, result.verdict]).toEqual([
        rounds,
        { lost: [], duplicates: [], disorder: [] },
      ]);
      expect([rounds, book.surprises]).toEqual([rounds, []]);
    }
  } finally {
    const seconds = (performance.now() - begin) / 1_000;
    process.stdout.write(
      `crash soak: rounds ${rounds}, acknowledged commands ${acknowledged(book).length}, ` +
        `events ${events}, lost ${lost}, duplicates ${duplicates}, ` +
        `broken requests ${book.broken}, answers 503 ${book.unavailable}, ` +
        `slowest recovery ${Math.max(0, ...recoveries)} ms, ${(seconds / Math.max(1, rounds)).toFixed(1)} s a round\n`,
    );
  }
});
