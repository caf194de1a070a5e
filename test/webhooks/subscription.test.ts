import { createSecretKey, type KeyObject } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { runSubscription } from '../../src/webhooks/subscription.ts';
import { A_CURSOR, A_ROW, handMadeDeliveries } from '../support/hand-made-deliveries.ts';
import { eventually } from '../support/webhooks.ts';

const secretsNamed = (...fingerprints: readonly string[]): ReadonlyMap<string, KeyObject> =>
  new Map(fingerprints.map((one) => [one, createSecretKey(Buffer.from(one.repeat(4)))]));
const OLD = '00000001';
const NEW = '00000002';

describe('a subscription that is set anew', () => {
  it('signs with the newest secret, also when an older reading of it ends last', async () => {
    const { deps, posts, happen } = handMadeDeliveries();
    const one = await runSubscription(deps, A_CURSOR, A_ROW);
    const rotated = { ...A_ROW, revision: 2n, secrets: [{ fingerprint: NEW, until: null }] };
    one.reload(rotated, secretsNamed(OLD, NEW));
    one.reload(A_ROW, secretsNamed(OLD));
    await happen(1);
    one.wake();
    await eventually(
      () => [posts.length, one.status().inFlight],
      (seen) => expect(seen).toEqual([1, 1]),
    );
    posts[0]?.answer(200);
    await one.stop();
  });
});
