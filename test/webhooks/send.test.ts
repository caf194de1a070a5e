import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addressPolicy } from '../../src/webhooks/addresses.ts';
import { guardedConnector } from '../../src/webhooks/connector.ts';
import { openSender, type Sender } from '../../src/webhooks/send.ts';
import { type Receiver, startReceiver } from '../support/webhook-receiver.ts';

const CONNECTING_MS = 100;

describe('a post that waits for its connection', () => {
  let receiver: Receiver;
  let sender: Sender;
  beforeAll(async () => {
    receiver = await startReceiver();
    sender = openSender({
      policy: { addresses: addressPolicy(['127.0.0.0/8']), allowHttp: true },
      connectorOf: (...given) => {
        const dial = guardedConnector(...given);
        return (...target) => void setTimeout(() => dial(...target), CONNECTING_MS);
      },
    });
  });
  afterAll(async () => {
    await sender.close();
    await receiver.close();
  });

  it.each([
    [true, { status: 200, failure: null }, 1],
    [false, { status: null, failure: 'no_answer' }, 0],
  ])('is sent only if its sender still may: %s', async (mayBegin, reply, posts) => {
    const before = receiver.received.length;
    const sent = await sender.send({
      url: new URL(receiver.url),
      headers: { 'webhook-id': 'one', 'content-type': 'application/json' },
      body: '{}',
      mayBegin: () => mayBegin,
    });
    expect(sent.reply).toMatchObject(reply);
    expect(receiver.received.length - before).toBe(posts);
  });
});
