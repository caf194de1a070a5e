import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';

describe('a subscription from its creation to its end', () => {
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

  it('is told of what happens after it was made, signed so that an independent library agrees', async () => {
    const made = await t.send('POST', '/webhooks', {
      body: { url: receiver.url, event_types: ['mail_domain.created'] },
    });
    expect(made.status).toBe(201);
    const { id, secret } = made.body.data;
    expect(secret).toMatch(/^whsec_/);
    await t.createDomain('one.example.com');
    await receiver.until(1);
    const [first] = receiver.received;
    if (first === undefined) throw new Error('nothing');
    receiver.verify(secret, first);
    expect(first.payload).toMatchObject({ type: 'mail_domain.created', sequence: 1, epoch: 1 });
    for (let n = 0; n < 50; n += 1) await t.createDomain();
    await receiver.until(51);
    expect(receiver.received.map(({ payload }) => payload.sequence).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 51 }, (_, n) => n + 1),
    );
    const stats = await t.send('GET', `/webhooks/${id}/stats`);
    expect(stats.body.data).toMatchObject({ retrying: 0, parked: 0, breaker: 'closed' });
    console.log(JSON.stringify(stats.body.data));
    const list = await t.send('GET', `/webhooks/${id}/deliveries?limit=2`);
    console.log(
      JSON.stringify(list.body.data),
      t.logged.filter((l) => l.includes('"level":50')),
    );
  });
});
