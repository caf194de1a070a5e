import { afterAll, expect, it } from 'vitest';
import type { CrashKind } from '../support/crash.ts';
import { seededRandom } from '../support/mail-crash.ts';
import { cleanUp, makeHome } from '../support/program.ts';
import {
  FAULTLESS,
  makeWebhookWorld,
  type WebhookRound,
  webhookCrashRound,
  webhookFigures,
} from '../support/webhook-crash.ts';

const ROUNDS = Number(process.env['WEBHOOK_CRASH_ROUNDS'] ?? 50);
const SEED = Number(process.env['WEBHOOK_CRASH_SEED'] ?? Date.now() % 1_000_000);

afterAll(cleanUp, 120_000);

it(`loses no delivery in ${ROUNDS} crashes`, async () => {
  const random = seededRandom(SEED + 1);
  const rounds: WebhookRound[] = [];
  const world = await makeWebhookWorld(makeHome(), SEED);
  try {
    while (rounds.length < ROUNDS) {
      const roll = random();
      const kind: CrashKind = roll < 0.5 ? 'gateway' : roll < 0.8 ? 'both' : 'database';
      const round = await webhookCrashRound(kind, world, random() < 0.3);
      rounds.push(round);
      const at = [SEED, rounds.length, kind];
      expect([at, world.surprises]).toEqual([at, []]);
      expect([at, round.verdict]).toEqual([at, FAULTLESS]);
    }
  } finally {
    process.stdout.write(webhookFigures(world, rounds, SEED));
    await world.stop();
  }
});
