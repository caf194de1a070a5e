import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { oneTo, sequencesOf, statsOf } from '../support/deliveries.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import { caughtUp, type Made } from '../support/webhooks.ts';

describe('a subscription from its creation to its end', () => {
  let t: TestGateway;
  let receiver: Receiver;
  let one: Made;
  let newer: string;
  beforeAll(async () => {
    t = await startTestGateway({ config: LOOPBACK });
    receiver = await startReceiver();
  });
  afterAll(async () => {
    await t.close();
    await receiver.close();
  });
  const act = (path: string, body: object = {}) =>
    t.send('POST', `/webhooks/${one.id}/${path}`, { body });

  it('is told of what happens after it was made, signed so that an independent library agrees', async () => {
    const body = { url: receiver.url, event_types: ['mail_domain.created'] };
    const made = await t.send('POST', '/webhooks', { body });
    expect(made.status).toBe(201);
    one = made.body.data;
    await t.createDomain('one.example.com');
    await receiver.until(1);
    const [first] = receiver.received;
    expect(first?.payload).toMatchObject({ type: 'mail_domain.created', sequence: 1, epoch: 1 });
    for (const post of receiver.received) receiver.verify(one.secret, post);
  });

  it('misses nothing of what happens while it is held, or while its gateway is away', async () => {
    await act('pause');
    for (let n = 0; n < 10; n += 1) await t.createDomain();
    t = await t.restart();
    for (let n = 0; n < 10; n += 1) await t.createDomain(`later${n}.example.com`);
    expect(receiver.received).toHaveLength(1);
    await act('resume');
    await caughtUp(t, one.id);
    expect(sequencesOf(receiver)).toEqual(oneTo(21));
    expect(await statsOf(t, one)).toMatchObject({ parked: 0, breaker: 'closed', sequence: 21 });
  });

  it('is signed by two secrets while one takes the other’s place', async () => {
    newer = (await act('secret/rotate', { grace_seconds: 3_600 })).body.data.secret;
    receiver.received.length = 0;
    await t.createDomain('rotated.example.com');
    await receiver.until(1);
    for (const post of receiver.received) {
      receiver.verify(newer, post);
      receiver.verify(one.secret, post);
      expect(String(post.headers['webhook-signature']).split(' ')).toHaveLength(2);
    }
  });

  it('gets a range again, byte for byte, signed anew', async () => {
    const before = new Map(receiver.received.map(({ id, body }) => [id, body]));
    receiver.received.length = 0;
    const { body } = await act('replays', { from: 'earliest', reason: 'their database was lost' });
    await receiver.until(22);
    expect(sequencesOf(receiver)).toEqual(oneTo(22));
    for (const post of receiver.received) {
      receiver.verify(newer, post);
      expect(post.headers['webhook-replay']).toBe(body.data.id);
      if (before.has(post.id)) expect(post.body).toBe(before.get(post.id));
    }
  });

  it('hears nothing more once it is deleted', async () => {
    await t.send('DELETE', `/webhooks/${one.id}`);
    receiver.received.length = 0;
    const other = await t.send('POST', '/webhooks', {
      body: { url: `${receiver.url}/other`, event_types: ['mail_domain.created'] },
    });
    expect(other.status).toBe(201);
    await t.createDomain('silent.example.com');
    await receiver.until(1);
    expect(receiver.received.map(({ path }) => path)).toEqual(['/hook/other']);
  });
});
