import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type PostfixGateway, startPostfixGateway } from '../support/postfix-gateway.ts';

const DAY_MS = 86_400_000;
let g: PostfixGateway;
beforeAll(async () => {
  g = await startPostfixGateway();
  g.postfix.answer('nobody@example.com', 'bounced');
});
afterAll(async () => g?.stop());

const YOU = 'you@example.com';
const SENDER = 'eve@sender.example';
/** Who got a message, and who a notice about it. */
const got = (queueId: string): string[] =>
  g.postfix.delivered.filter((one) => one.queueId === queueId).map(({ recipient }) => recipient);
const notices = (sender: string): number =>
  g.postfix.delivered.filter((one) => one.sender === '' && one.recipient === sender).length;
const outcomes = ({ deliveries }: { deliveries: any[] }): string[] =>
  deliveries.map(({ recipient, outcome, code }) => `${recipient} ${outcome} ${code}`);

describe('release', () => {
  it('200 released: all have it, and what their servers said is told', async () => {
    const { id, queue_id: queueId } = await g.held({ recipients: [YOU, 'Two@example.net'] });
    const reply = await g.act(id, 'release', { reason: 'It is from a customer.' });
    expect([reply.status, reply.body.data.state]).toEqual([200, 'released']);
    expect(outcomes(reply.body.data)).toEqual([
      ...['you@example.com accepted 250', 'Two@example.net accepted 250'],
    ]);
    expect(got(queueId)).toEqual([YOU, 'Two@example.net']);
    expect(await g.types(id)).toEqual([
      ...['added', 'release_requested', 'release_started', 'released'],
    ]);
    const again = await g.act(id, 'release');
    expect([again.status, g.asks('release', queueId)]).toEqual([200, 1]);
    expect((await g.act(id, 'discard')).body.error).toBe('state_conflict');
  });

  it('202: one has to wait; released once that one has it, too, and nobody has it twice', async () => {
    g.postfix.answer('busy@example.com', 'deferred');
    const { id, queue_id: queueId } = await g.held({ recipients: [YOU, 'busy@example.com'] });
    const reply = await g.act(id, 'release');
    expect([reply.status, reply.body.data.state]).toEqual([202, 'release_requested']);
    expect(outcomes(reply.body.data)).toEqual([
      ...['you@example.com accepted 250', 'busy@example.com deferred 451'],
    ]);
    g.postfix.answer('busy@example.com', 'sent');
    g.postfix.runQueue();
    await g.logRead();
    expect(await g.stateOf(id)).toBe('release_requested');
    g.clock.advance(6_000);
    await g.reaches(id, 'released');
    expect((await g.lastOf(id)).data.results).toEqual([
      { recipient: 1, outcome: 'accepted', code: 250 },
    ]);
    expect(got(queueId)).toEqual([YOU, 'busy@example.com']);
  });

  it('202: it is back on hold by hand; that is another message, and is left alone', async () => {
    g.postfix.answer('full@example.com', 'deferred');
    const old = await g.held({ recipients: ['full@example.com'] });
    expect((await g.act(old.id, 'release')).status).toBe(202);
    await g.unseen(() => g.postfix.console('hold', old.queue_id));
    const now = await g.listed(old.queue_id, 2);
    expect(now).toMatchObject({ state: 'held', held_by: 'hand' });
    g.clock.advance(6_000);
    await g.reaches(old.id, 'vanished');
    expect(g.postfix.queueOf(old.queue_id)).toBe('hold');
    expect(await g.types(now.id)).toEqual(['added']);
  });

  it('409 release_failed: one was refused for good; it is undelivered, and the sender knows', async () => {
    const sender = 'undelivered@sender.example';
    const { id, queue_id: queueId } = await g.held({
      ...{ sender, recipients: [YOU, 'nobody@example.com'] },
    });
    const reply = await g.act(id, 'release');
    expect([reply.status, reply.body.error]).toEqual([409, 'release_failed']);
    expect(reply.body.data.state).toBe('undelivered');
    expect(outcomes(reply.body.data)).toEqual([
      ...['you@example.com accepted 250', 'nobody@example.com refused 550'],
    ]);
    expect([got(queueId), notices(sender)]).toEqual([[YOU], 1]);
    expect((await g.types(id)).at(-1)).toBe('undelivered');
    expect(g.postfix.queueOf(queueId)).toBeNull();
  });

  it('400 validation_failed: to some alone, which a hold queue cannot do', async () => {
    const { id, queue_id: queueId } = await g.held({ recipients: [YOU, 'two@example.com'] });
    const some = await g.act(id, 'release', { recipients: [YOU] });
    expect([some.status, some.body.error]).toEqual([400, 'validation_failed']);
    expect(g.postfix.queueOf(queueId)).toBe('hold');
    const all = await g.act(id, 'release', { recipients: ['two@example.com', YOU] });
    expect([all.status, got(queueId).length]).toEqual([200, 2]);
  });

  it('what is old is requeued, and followed under its new id', async () => {
    const at = new Date(Date.now() - 3 * DAY_MS);
    const { id, queue_id: queueId } = await g.held({ at });
    const reply = await g.act(id, 'release');
    expect([reply.status, reply.body.data.state]).toEqual([200, 'released']);
    expect(outcomes(reply.body.data)).toEqual(['you@example.com accepted 250']);
    expect([g.asks('requeue', queueId), g.asks('release', queueId)]).toEqual([1, 0]);
  });

  it('of many at once: each goes out once, and none waits for another', async () => {
    const items = await Promise.all(Array.from({ length: 12 }, () => g.held()));
    const replies = await Promise.all(items.map(({ id }) => g.act(id, 'release')));
    expect(new Set(replies.map(({ status }) => status))).toEqual(new Set([200]));
    for (const item of items) expect(got(item.queue_id)).toEqual([YOU]);
  });

  it('waits for the mail log as long as that is a little behind', async () => {
    const { id } = await g.held();
    g.postfix.log.hold();
    setTimeout(() => g.postfix.log.flush(), 1_500);
    const reply = await g.act(id, 'release');
    expect([reply.status, reply.body.data.state]).toEqual([200, 'released']);
  });

  it('undelivered: it became too old on its way, which the queue manager alone says', async () => {
    g.postfix.answer('never@example.com', 'deferred');
    const { id, queue_id: queueId } = await g.held({ recipients: [YOU, 'never@example.com'] });
    expect((await g.act(id, 'release')).status).toBe(202);
    g.postfix.log.say('qmgr', `${queueId}: from=<${SENDER}>, status=expired, returned to sender`);
    g.postfix.log.say('qmgr', `${queueId}: removed`);
    g.postfix.lose(queueId);
    await g.logRead();
    g.clock.advance(6_000);
    await g.reaches(id, 'undelivered');
    expect(outcomes(await g.item(id))).toEqual([
      ...['you@example.com accepted 250', 'never@example.com refused 451'],
    ]);
  });

  it('vanished: it was removed on its way by hand', async () => {
    g.postfix.answer('full@example.com', 'deferred');
    const { id, queue_id: queueId } = await g.held({ recipients: ['full@example.com'] });
    expect((await g.act(id, 'release')).status).toBe(202);
    g.postfix.log.say('postsuper', `${queueId}: removed`);
    g.postfix.lose(queueId);
    await g.logRead();
    g.clock.advance(6_000);
    await g.reaches(id, 'vanished');
    expect((await g.lastOf(id)).data).toEqual({ how: 'removed' });
  });
});

describe('discard', () => {
  it('200 discarded: it is gone, nobody has it, and nobody is told', async () => {
    const sender = 'discarded@sender.example';
    const { id, queue_id: queueId } = await g.held({ sender });
    const reply = await g.act(id, 'discard');
    expect([reply.status, reply.body.data.state]).toEqual([200, 'discarded']);
    expect(g.postfix.queueOf(queueId)).toBeNull();
    await g.looks(3);
    expect([got(queueId), notices(sender)]).toEqual([[], 0]);
    expect(await g.types(id)).toEqual(['added', 'discard_requested', 'discarded']);
    expect((await g.act(id, 'discard')).status).toBe(200);
    expect(g.asks('discard', queueId)).toBe(1);
  });

  it('vanished: the console was faster, and what it did is told', async () => {
    const { id, queue_id: queueId } = await g.held();
    g.postfix.before('discard', () => g.postfix.console('release', queueId));
    const reply = await g.act(id, 'discard');
    expect(reply.body.data.state).toBe('vanished');
    expect((await g.lastOf(id)).data).toEqual({ how: 'released' });
    expect(g.postfix.queueOf(queueId)).toBe('deferred');
  });
});

describe('reject', () => {
  it('200 rejected: the sender has a notice, and nobody the message', async () => {
    const sender = 'rejected@sender.example';
    const { id, queue_id: queueId } = await g.held({ sender });
    const reply = await g.act(id, 'reject');
    expect([reply.status, reply.body.data.state]).toEqual([200, 'rejected']);
    expect([got(queueId), notices(sender)]).toEqual([[], 1]);
    expect(await g.types(id)).toEqual([
      ...['added', 'reject_requested', 'reject_started', 'rejected'],
    ]);
    expect((await g.act(id, 'reject')).status).toBe(200);
    expect(g.asks('bounce', queueId)).toBe(1);
  });

  it('409 state_conflict: the null sender is told nothing', async () => {
    const { id, queue_id: queueId } = await g.held({ sender: '' });
    expect((await g.act(id, 'reject')).body.error).toBe('state_conflict');
    expect(g.postfix.queueOf(queueId)).toBe('hold');
  });
});

// At once, for each takes as long as the gateway waits for the log.
describe.concurrent('a release or a rejection that comes to nothing', () => {
  it('409 release_failed: what is old is caught again by a rule, as another message', async () => {
    const at = new Date(Date.now() - 3 * DAY_MS);
    const old = await g.held({ at, heldBy: 'rule', recipients: ['caught@example.com'] });
    const reply = await g.act(old.id, 'release');
    expect([reply.status, reply.body.error]).toEqual([409, 'release_failed']);
    expect(reply.body.data.state).toBe('vanished');
    expect((await g.lastOf(old.id)).data).toEqual({ how: 'requeued' });
  });

  it('409 reject_failed: the console has released it before', async () => {
    const { id, queue_id: queueId } = await g.held();
    g.postfix.before('bounce', () => g.postfix.console('release', queueId));
    const reply = await g.act(id, 'reject');
    expect([reply.status, reply.body.error]).toEqual([409, 'reject_failed']);
    expect((await g.lastOf(id)).data).toEqual({ how: 'released' });
    expect(notices(SENDER)).toBe(0);
  });

  it('release: what came of the other, which was never held, is not of the old one', async () => {
    const old = await g.held();
    g.postfix.before('release', () => g.postfix.reuse(old.queue_id, { isPassed: true }));
    const reply = await g.act(old.id, 'release');
    expect([reply.status, reply.body.data.state]).toEqual([409, 'vanished']);
  });
});

describe('an id that another message has by now', () => {
  it.each([
    ['release', 'release'],
    ['discard', 'discard'],
    ['reject', 'bounce'],
  ] as const)(
    '%s: the old one has vanished, and the other is not touched',
    async (action, verb) => {
      const old = await g.held();
      g.postfix.before(verb, () => g.postfix.reuse(old.queue_id));
      expect((await g.act(old.id, action)).body.data.state).toBe('vanished');
      expect((await g.lastOf(old.id)).data).toEqual({ how: 'unknown' });
      expect(g.postfix.queueOf(old.queue_id)).toBe('hold');
      expect(await g.listed(old.queue_id, 2)).toMatchObject({ subject: 'Quite another' });
      expect((await g.types(old.id)).filter((type) => type === 'released')).toEqual([]);
    },
  );
});
