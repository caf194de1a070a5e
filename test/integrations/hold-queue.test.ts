import { once } from 'node:events';
import { createServer } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { type HoldQueue, openHoldQueue } from '../../src/integrations/hold-queue.ts';
import {
  connectPostfixHelper,
  HelperRefusedError,
  HelperUnavailableError,
} from '../../src/integrations/postfix-helper.ts';
import { type FakePostfix, startFakePostfix } from '../support/fake-postfix.ts';
import { holdQueueContract } from './hold-queue.contract.ts';

holdQueueContract('the fake Postfix', async () => {
  const postfix = await startFakePostfix();
  postfix.answer('later@shop.example', 'deferred');
  postfix.answer('later@requeued.shop.example', 'deferred');
  return {
    socket: postfix.socket,
    hold: async (mail) => postfix.arrive(mail).queueId,
    console: (verb, queueId) => void postfix.console(verb, queueId),
    stop: postfix.stop,
  };
});

const HASTY_MS = 150;
let postfix: FakePostfix;
let queue: HoldQueue;
/** For a helper that hangs: it is not waited for long. */
let hasty: HoldQueue;
beforeAll(async () => {
  postfix = await startFakePostfix();
  queue = openHoldQueue(connectPostfixHelper({ socket: postfix.socket }));
  hasty = openHoldQueue(connectPostfixHelper({ socket: postfix.socket, askMs: HASTY_MS }));
});
afterAll(async () => postfix.stop());
afterEach(() => void vi.useRealTimers());

const VERBS = ['settings', 'held', 'list'] as const;

describe('an answer that cannot be had', () => {
  it.each(VERBS)('rejects: %s was cut off', async (verb) => {
    postfix.arrive();
    postfix.fail('cut', verb);
    await expect(queue[verb]()).rejects.toThrow(HelperUnavailableError);
    await expect(queue[verb]()).resolves.toBeDefined();
  });

  it.each(VERBS)('rejects: %s takes too long, and says how long', async (verb) => {
    postfix.fail('hangs', verb);
    await expect(hasty[verb]()).rejects.toThrow(`longer than ${HASTY_MS} ms`);
    await expect(queue[verb]()).resolves.toBeDefined();
  });

  it.each(VERBS)('rejects: %s is refused, which is no matter of waiting', async (verb) => {
    postfix.fail('refuses', verb);
    const asking = queue[verb]();
    await expect(asking).rejects.toThrow(HelperRefusedError);
    await expect(asking).rejects.toThrow('postconf failed');
  });

  it('rejects: there is no socket, until there is one', async () => {
    const file = postfix.arrive();
    await postfix.down();
    await expect(queue.held()).rejects.toThrow('cannot be reached: ENOENT');
    await expect(queue.act('release', file)).rejects.toThrow(HelperUnavailableError);
    await expect(queue.open(file)).rejects.toThrow(HelperUnavailableError);
    await postfix.up();
    expect(await queue.held()).toContainEqual(file);
  });

  it('rejects: more than can be kept', async () => {
    const path = `${postfix.socket}.large`;
    const megabyte = Buffer.alloc(1_048_576, 'x\n');
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => undefined);
      socket.resume();
      const more = () => {
        while (socket.writable && socket.write(megabyte));
      };
      socket.on('drain', more);
      more();
    }).listen(path);
    await once(server, 'listening');
    const large = openHoldQueue(connectPostfixHelper({ socket: path, askMs: 20_000 }));
    await expect(large.held()).rejects.toThrow('answers more than 67108864 bytes');
    server.close();
  });

  it('those who hang do not keep the others out for longer than that', async () => {
    postfix.fail('hangs', 'list', 20);
    const hanging = Array.from({ length: 20 }, () => hasty.list().catch(() => 'given up'));
    await expect(hasty.held()).resolves.toBeDefined();
    expect(new Set(await Promise.all(hanging))).toEqual(new Set(['given up']));
  });
});

describe('a message that is read', () => {
  it('rejects: the helper refuses, and its words are not taken for mail', async () => {
    const file = postfix.arrive();
    postfix.fail('refuses', 'message');
    const opening = queue.open(file);
    await expect(opening).rejects.toThrow(HelperRefusedError);
    await expect(opening).rejects.toThrow('refused message: mailguard: postconf failed');
    expect(await queue.open(file)).not.toBeNull();
  });

  const text = `Subject: A long one\n\n${'Some words in a row.\n'.repeat(20_000)}`;

  it.each([text, 'Subject: x\n\n', 'S: x\n'])('rejects: it was cut off (%#)', async (cut) => {
    const file = postfix.arrive({ text: cut });
    postfix.fail('cut', 'message');
    const reading = async () => {
      for await (const chunk of (await queue.open(file)) ?? []) expect(chunk).toBeDefined();
    };
    await expect(reading()).rejects.toThrow('was cut off');
    await expect(reading()).resolves.toBeUndefined();
  });

  it('keeps others from reading for two minutes at most, though nobody takes it', async () => {
    const file = postfix.arrive({ text });
    const patient = openHoldQueue(connectPostfixHelper({ socket: postfix.socket }));
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const opened = await Promise.all(Array.from({ length: 6 }, () => patient.open(file)));
    await vi.advanceTimersByTimeAsync(120_000);
    opened.push(await patient.open(file));
    vi.useRealTimers();
    expect(opened).not.toContain(null);
    for (const bytes of opened) await bytes?.[Symbol.asyncIterator]().return?.();
  });

  it.each(['end 0\n', 'end 1\n', 'mailguard: postconf failed\n', 'Subject: x\n\nend 64\n'])(
    'ends where the helper says so, not where its text does (%#)',
    async (words) => {
      const file = postfix.arrive({ text: words });
      const chunks: Buffer[] = [];
      for await (const chunk of (await queue.open(file)) ?? []) chunks.push(chunk);
      expect(Buffer.concat(chunks).toString()).toBe(words.replaceAll('\n', '\r\n'));
    },
  );
});

describe('an action', () => {
  it('unsaid: somebody was faster by a moment, and postsuper has only totals to tell', async () => {
    const file = postfix.arrive();
    postfix.between('release', () => postfix.console('release', file.queueId));
    expect(await queue.act('release', file)).toBe('unsaid');
    expect(await queue.act('release', file)).toBe('not_held');
  });

  it('done: the exit status and the totals of others count for nothing', async () => {
    const [mine, taken] = [postfix.arrive(), postfix.arrive()];
    postfix.between('discard', () => postfix.console('release', taken.queueId));
    const outcomes = [mine, taken].map((file) => queue.act('discard', file));
    expect(await Promise.all(outcomes)).toEqual(['done', 'unsaid']);
    expect(postfix.queueOf(taken.queueId)).toBe('deferred');
  });

  it('rejects: its answer was cut off, though it was done', async () => {
    const file = postfix.arrive();
    postfix.fail('acts_and_cuts', 'discard');
    await expect(queue.act('discard', file)).rejects.toThrow(HelperUnavailableError);
    expect(postfix.queueOf(file.queueId)).toBeNull();
    expect(await queue.act('discard', file)).toBe('not_held');
  });

  it('rejects: it was done, and the look at the queue afterwards failed', async () => {
    const file = postfix.arrive();
    postfix.fail('cut', 'held');
    await expect(queue.act('release', file)).rejects.toThrow(HelperUnavailableError);
    expect(postfix.queueOf(file.queueId)).toBe('deferred');
  });

  it('goes together with many others, at most 1000 at once', async () => {
    const files = Array.from({ length: 1_050 }, () => postfix.arrive());
    const before = postfix.asked.length;
    const outcomes = await Promise.all(files.map((file) => queue.act('discard', file)));
    expect(new Set(outcomes)).toEqual(new Set(['done']));
    const asked = postfix.asked.slice(before).filter(({ verb }) => verb === 'discard');
    expect(asked.map(({ lines }) => lines.length)).toEqual([1_000, 50]);
  });

  it('after one that failed, the next is asked for', async () => {
    const file = postfix.arrive();
    postfix.fail('cut', 'release');
    await expect(queue.act('release', file)).rejects.toThrow(HelperUnavailableError);
    expect(await queue.act('release', file)).toBe('done');
  });
});

describe('a list', () => {
  it('tells what comes twice once, and nothing of a notice', async () => {
    const [first, second] = [postfix.arrive(), postfix.arrive()];
    postfix.flicker();
    const list = await queue.list();
    postfix.flicker(false);
    expect(list.has(first.queueId)).toBe(true);
    // It was left out, which says nothing of it.
    expect(list.has(second.queueId)).toBe(false);
    expect((await queue.list()).has(second.queueId)).toBe(true);
  });
});
