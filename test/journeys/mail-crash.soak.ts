import { afterAll, expect, it } from 'vitest';
import type { CrashKind } from '../support/crash.ts';
import {
  FAULTLESS,
  type MailRound,
  mailCrashRound,
  mailFigures,
  makeMailWorld,
  seededRandom,
} from '../support/mail-crash.ts';
import { cleanUp, makeHome } from '../support/program.ts';

const ROUNDS = Number(process.env['MAIL_CRASH_ROUNDS'] ?? 50);
const SEED = Number(process.env['MAIL_CRASH_SEED'] ?? Date.now() % 1_000_000);

afterAll(cleanUp, 120_000);

it(`loses no mail in ${ROUNDS} crashes`, async () => {
  const random = seededRandom(SEED);
  const rounds: MailRound[] = [];
  const world = await makeMailWorld(makeHome(), random);
  try {
    while (rounds.length < ROUNDS) {
      const roll = random();
      const kind: CrashKind = roll < 0.5 ? 'gateway' : roll < 0.8 ? 'both' : 'database';
      const round = await mailCrashRound(kind, world);
      rounds.push(round);
      const at = [SEED, rounds.length, kind];
      expect([at, world.book.surprises]).toEqual([at, []]);
      expect([at, round.verdict]).toEqual([at, FAULTLESS]);
    }
  } finally {
    process.stdout.write(mailFigures(world, rounds, SEED));
    await world.stop();
  }
});
