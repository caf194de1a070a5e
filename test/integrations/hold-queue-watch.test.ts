import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { holdQueries } from '../support/hold.ts';
import { type PostfixGateway, startPostfixGateway } from '../support/postfix-gateway.ts';
import { factsSince, headOf } from '../support/recorded.ts';

let g: PostfixGateway;
beforeAll(async () => {
  g = await startPostfixGateway();
});
afterAll(async () => g?.stop());

const UNSCANNED = { reason: 'unscanned', score: null, symbols: [] };

describe('mail that is held', () => {
  it('announced before: it is there with score, symbols and its envelope', async () => {
    const queueId = g.newQueueId();
    expect(await g.announce(queueId, { score: 14.2, symbols: ['A_RULE', 'B_RULE'] })).toBe(200);
    const recipients = ['you@example.com', 'else@example.net'];
    g.postfix.arrive({ queueId, recipients, text: 'Subject: Look\nMessage-ID: <x@y>\n\nHi.\n' });
    const item = await g.listed(queueId);
    expect(item).toMatchObject({
      ...{ state: 'held', store: 'postfix', held_by: 'filter', reason: 'spam' },
      ...{ score: 14.2, symbols: ['A_RULE', 'B_RULE'], mail_domains: ['example.com'] },
      ...{ sender: 'eve@sender.example', recipients, subject: 'Look', message_id: '<x@y>' },
      size_bytes: 'Subject: Look\r\nMessage-ID: <x@y>\r\n\r\nHi.\r\n'.length,
    });
    expect(await g.types(item.id)).toEqual(['added']);
  });

  it('announced after: unscanned at first, and then what the filter found', async () => {
    const item = await g.held();
    expect(item).toMatchObject(UNSCANNED);
    await g.announce(item.queue_id, { score: 9.5, symbols: ['LATE'] });
    await expect.poll(async () => (await g.item(item.id)).score).toBe(9.5);
    expect(await g.item(item.id)).toMatchObject({ symbols: ['LATE'], reason: 'spam' });
    expect(await g.types(item.id)).toEqual(['added', 'scanned']);
    await g.announce(item.queue_id, { score: 1, symbols: ['AGAIN'] });
    await g.looks(3);
    expect((await g.item(item.id)).score).toBe(9.5);
  });

  it('announced after, and taught while that is noted: what the filter found is not lost', async () => {
    const item = await g.held();
    const noting = holdQueries(g.gateway().gateway.context.pool, /from quarantine_announcements/);
    await g.announce(item.queue_id, { score: 9.5 });
    await noting.reached;
    expect((await g.act(item.id, 'retrain', { class: 'spam' })).status).toBe(200);
    noting.release();
    await expect.poll(async () => (await g.item(item.id)).score).toBe(9.5);
    expect(await g.types(item.id)).toEqual([
      ...['added', 'retrain_requested', 'retrain_failed', 'scanned'],
    ]);
  });

  it('never announced: unscanned and no score, and told who holds it', async () => {
    const holders = ['filter', 'filter_down', 'rule', 'hand', 'nobody'] as const;
    const files = await g.unseen(() => holders.map((heldBy) => g.postfix.arrive({ heldBy })));
    const items = await Promise.all(files.map(({ queueId }) => g.listed(queueId)));
    expect(items.map(({ held_by: heldBy }) => heldBy)).toEqual([
      ...['filter', 'filter_down', 'rule', 'hand', 'unknown'],
    ]);
    for (const item of items) expect(item).toMatchObject({ ...UNSCANNED, state: 'held' });
    await g.looks(3);
    for (const { id } of items) expect(await g.types(id)).toEqual(['added']);
  });

  it('while the mail log is behind: who held it is told all the same', async () => {
    g.postfix.log.hold();
    const { queueId } = g.postfix.arrive({ heldBy: 'filter_down' });
    setTimeout(() => g.postfix.log.flush(), 400);
    expect(await g.listed(queueId)).toMatchObject({ ...UNSCANNED, held_by: 'filter_down' });
  });

  it('the null sender is empty; mail without a header has no subject', async () => {
    expect(await g.held({ sender: '', text: '\nHello.\n' })).toMatchObject({
      ...{ sender: '', subject: '', message_id: null, state: 'held' },
    });
  });

  it('much of it at once is all taken in, each once', async () => {
    const files = Array.from({ length: 250 }, () => g.postfix.arrive().queueId);
    const taken = async () => (await g.idsOf(files)).length;
    await expect.poll(taken, { timeout: 10_000 }).toBe(files.length);
    await g.looks(3);
    expect(await taken()).toBe(files.length);
  });

  it('much of it, of which the log says nothing, does not wait for that one by one', async () => {
    const files = Array.from({ length: 40 }, () => g.postfix.arrive({ heldBy: 'nobody' }).queueId);
    const taken = async () => (await g.idsOf(files)).length;
    await expect.poll(taken, { timeout: 6_000 }).toBe(files.length);
  });

  it('is read as it is held: with CRLF, and not once it has gone', async () => {
    const item = await g.held({ text: 'Subject: x\n\nOne\nTwo\n' });
    const get = () => g.gateway().send('GET', `/mail/quarantine/messages/${item.id}/body`);
    expect((await get()).text).toBe('Subject: x\r\n\r\nOne\r\nTwo\r\n');
    g.postfix.lose(item.queue_id);
    const reply = await get();
    expect([reply.status, reply.body.error]).toEqual([410, 'content_gone']);
    await g.reaches(item.id, 'vanished');
  });
});

describe('the body of a held message', () => {
  it('503 unavailable: the helper refuses to show it, and nothing of its words is shown', async () => {
    const item = await g.held();
    const path = `/mail/quarantine/messages/${item.id}/body`;
    g.postfix.fail('refuses', 'message');
    const reply = await g.gateway().send('GET', path);
    expect([reply.status, reply.body.error]).toEqual([503, 'unavailable']);
    expect(reply.text).not.toContain('postconf');
    expect((await g.gateway().send('GET', path)).status).toBe(200);
  });
});

describe('/metrics', () => {
  it('tells what is on hold by a name of its own, and nothing of a spool', async () => {
    await g.held();
    const figures = async () => (await g.gateway().send('GET', '//metrics', { key: null })).text;
    await expect.poll(figures).toMatch(/^mailguard_hold_queue_messages [1-9]/m);
    const text = await figures();
    expect(text).toMatch(/^mailguard_hold_queue_bytes [1-9]/m);
    expect(text).not.toContain('mailguard_spool_');
  });
});

describe('an announcement', () => {
  it('without a queue file leaves no trace', async () => {
    const before = await headOf(g.gateway());
    const queueId = g.newQueueId();
    expect(await g.announce(queueId)).toBe(200);
    await g.looks(5);
    expect(await g.itemsOf(queueId)).toEqual([]);
    expect(await factsSince(g.gateway(), before)).toEqual([]);
  });

  it('of an older message under the same id is not of this one', async () => {
    const queueId = g.newQueueId();
    await g.announce(queueId);
    g.postfix.arrive({ queueId, at: new Date(Date.now() + 120_000) });
    expect(await g.listed(queueId)).toMatchObject(UNSCANNED);
  });
});

describe('mail that has gone', () => {
  it('by what was typed at the console: it has vanished as the log says, and not by us', async () => {
    const verbs = ['release', 'discard', 'requeue', 'bounce'] as const;
    const items = await Promise.all(verbs.map(() => g.held()));
    await g.unseen(() => {
      for (const [at, verb] of verbs.entries()) g.postfix.console(verb, items[at].queue_id);
    });
    for (const { id } of items) await g.reaches(id, 'vanished');
    const last = await Promise.all(items.map(({ id }) => g.lastOf(id)));
    expect(last.map(({ data }) => data.how)).toEqual([
      ...['released', 'removed', 'requeued', 'bounced'],
    ]);
    for (const event of last) expect(event).toMatchObject({ actor: { type: 'system' } });
    for (const { id } of items) expect(await g.types(id)).toEqual(['added', 'vanished']);
    expect((await g.act(items[0].id, 'release')).body.error).toBe('state_conflict');
  });

  it('while the mail log is behind: how is told all the same', async () => {
    const item = await g.held();
    g.postfix.log.hold();
    g.postfix.console('release', item.queue_id);
    setTimeout(() => g.postfix.log.flush(), 400);
    await g.reaches(item.id, 'vanished');
    expect((await g.lastOf(item.id)).data).toEqual({ how: 'released' });
  });

  it('without a word: nobody knows how', async () => {
    const item = await g.held();
    g.postfix.lose(item.queue_id);
    await g.reaches(item.id, 'vanished');
    expect((await g.lastOf(item.id)).data).toEqual({ how: 'unknown' });
  });

  it('for one look is no event, however often', async () => {
    const item = await g.held();
    for (let turn = 0; turn < 3; turn += 1) {
      g.postfix.hide(item.queue_id, 1);
      await g.looks(3);
    }
    expect(await g.types(item.id)).toEqual(['added']);
    expect(await g.itemsOf(item.queue_id)).toHaveLength(1);
    g.postfix.hide(item.queue_id, 2);
    await g.reaches(item.id, 'vanished');
  });

  it('from the list alone, or told twice there, is no event, and is taken in', async () => {
    const known = await g.held();
    g.postfix.flicker();
    const { queueId } = g.postfix.arrive();
    await g.looks(4);
    expect(await g.types(known.id)).toEqual(['added']);
    g.postfix.flicker(false);
    expect(await g.listed(queueId)).toMatchObject({ state: 'held' });
  });

  it('while the gateway was down is told after its start', async () => {
    const [released, kept] = [await g.held(), await g.held()];
    let arrived = '';
    await g.restart(() => {
      g.postfix.console('release', released.queue_id);
      arrived = g.postfix.arrive({ heldBy: 'rule' }).queueId;
    });
    await g.reaches(released.id, 'vanished');
    expect((await g.lastOf(released.id)).data).toEqual({ how: 'released' });
    expect(await g.listed(arrived)).toMatchObject({ held_by: 'rule' });
    expect(await g.types(kept.id)).toEqual(['added']);
    expect(await g.itemsOf(kept.queue_id)).toHaveLength(1);
  });
});

describe('mail that is back', () => {
  it('let go and held again on the console is another message each time', async () => {
    const first = await g.held();
    const ids = [first.id];
    for (const count of [2, 3]) {
      await g.unseen(() => g.postfix.console('release', first.queue_id));
      await g.reaches(ids.at(-1) ?? '', 'vanished');
      await g.unseen(() => g.postfix.console('hold', first.queue_id));
      const again = await g.listed(first.queue_id, count);
      expect(again).toMatchObject({ state: 'held', held_by: 'hand', ...UNSCANNED });
      ids.push(again.id);
    }
    expect(new Set(ids).size).toBe(3);
    expect(await g.types(first.id)).toEqual(['added', 'vanished']);
  });

  it('another under the same id is another message, and the old one has vanished', async () => {
    const old = await g.held();
    g.postfix.reuse(old.queue_id);
    const now = await g.listed(old.queue_id, 2);
    expect(now).toMatchObject({ state: 'held', subject: 'Quite another' });
    expect(now.id).not.toBe(old.id);
    await g.reaches(old.id, 'vanished');
    expect((await g.lastOf(old.id)).data).toEqual({ how: 'unknown' });
  });
});

describe('when its retention has ended', () => {
  it('the held file is removed, and the message has expired', async () => {
    const item = await g.held();
    expect(await g.endAfter(31)).toBeGreaterThan(0);
    expect(g.postfix.queueOf(item.queue_id)).toBeNull();
    await g.looks(3);
    expect(await g.types(item.id)).toEqual(['added', 'expired']);
    expect(await g.stateOf(item.id)).toBe('expired');
  });

  it('and the helper is away: the file goes later, and is no message of its own', async () => {
    const item = await g.held();
    g.postfix.fail('cut', 'discard');
    await g.endAfter(31).catch(() => 'the helper is away');
    await expect.poll(() => g.postfix.queueOf(item.queue_id)).toBeNull();
    await g.looks(3);
    expect(await g.types(item.id)).toEqual(['added', 'expired']);
    expect(await g.itemsOf(item.queue_id)).toHaveLength(1);
  });
});
