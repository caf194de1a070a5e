import { expect, it } from 'vitest';
import {
  listWebhookSecrets,
  saveWebhookSecret,
  sweepWebhookSecrets,
} from '../../src/db/webhook-secrets.ts';
import { asAdmin, createDatabase } from '../support/database.ts';

it('a secret that is used again is not swept before the log says so, though it signed long ago', async () => {
  const database = await createDatabase();
  try {
    const { pool } = database;
    const secret = { fingerprint: '00000001', sealed: Buffer.from('first') };
    await saveWebhookSecret(pool, 'webhook:1', secret);
    await asAdmin(
      database.url,
      "update credentials set created_at = now() - interval '2 hours' where kind = 'webhook'",
    );
    const kept = await saveWebhookSecret(pool, 'webhook:1', {
      ...secret,
      sealed: Buffer.from('again'),
    });
    expect(kept.toString()).toBe('first');
    await sweepWebhookSecrets(pool, new Date());
    const left = await listWebhookSecrets(pool, 'webhook:1');
    expect(left.map(({ fingerprint }) => fingerprint)).toEqual(['00000001']);
  } finally {
    await database.drop();
  }
});
