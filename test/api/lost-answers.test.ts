import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { happen } from '../support/deliveries.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';

let t: TestGateway;
let receiver: Receiver;
beforeAll(async () => {
  t = await startTestGateway({ config: LOOPBACK });
  receiver = await startReceiver();
});
afterAll(async () => {
  await t.close();
  await receiver.close();
});

/** The answer to the next append is lost behind its commit, so that the same events are sent once more. */
function loseNextAnswer(): () => number {
  const { log } = t.gateway.context;
  const { append } = log;
  let lost = 0;
  Object.assign(log, {
    async append(command: Parameters<typeof append>[0]) {
      Object.assign(log, { append });
      lost += 1;
      await append(command);
      return append(command);
    },
  });
  return () => lost;
}

describe('what was made, though the answer of the database was lost on the way', () => {
  it('201: a key that works', async () => {
    const lost = loseNextAnswer();
    const body = { name: 'unlucky', scope: 'read-only' };
    const reply = await t.send('POST', '/auth/api-keys', { body });
    expect([reply.status, lost()]).toEqual([201, 1]);
    const { key } = reply.body.data;
    expect((await t.send('GET', '/domains', { key })).status).toBe(200);
  });

  it('200: a successor that works', async () => {
    const { id } = await t.createKey();
    const lost = loseNextAnswer();
    const reply = await t.send('POST', `/auth/api-keys/${id}/rotate`, { body: {} });
    expect([reply.status < 300, lost()]).toEqual([true, 1]);
    const { key } = reply.body.data;
    expect((await t.send('GET', '/domains', { key })).status).toBe(200);
  });

  it('201: a webhook whose deliveries are signed with the secret that was told', async () => {
    const lost = loseNextAnswer();
    const body = { url: receiver.url, event_types: ['quarantine.content_read'] };
    const reply = await t.send('POST', '/webhooks', { body });
    expect([reply.status, lost()]).toEqual([201, 1]);
    await happen(t, 1);
    await receiver.until(1);
    const [received] = receiver.received;
    if (received === undefined) throw new Error('nothing has arrived');
    receiver.verify(reply.body.data.secret, received);
  });

  it('201: a mail domain and a sender filter, each once', async () => {
    const domain = { name: 'unlucky.example', backend_servers: [] };
    loseNextAnswer();
    const made = await t.send('POST', '/domains', { body: domain });
    expect([made.status, made.body.data.name]).toEqual([201, domain.name]);
    const filter = { kind: 'block', scope: 'global', sender: '@spam.example' };
    loseNextAnswer();
    const blocked = await t.send('POST', '/sender-filters', { body: filter });
    expect([blocked.status, blocked.body.data.sender]).toEqual([201, filter.sender]);
    expect((await t.send('GET', '/sender-filters')).body.data).toHaveLength(1);
  });
});
