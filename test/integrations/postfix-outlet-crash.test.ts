import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type PostfixGateway, startPostfixGateway } from '../support/postfix-gateway.ts';

let g: PostfixGateway;
beforeAll(async () => {
  g = await startPostfixGateway();
});
afterAll(async () => g?.stop());

/** Between two looks for what is due. */
const WORKER_LOOK_MS = 1_000;
const WAIT = { timeout: 5_000, interval: 20 };

const got = (queueId: string): number =>
  g.postfix.delivered.filter((one) => one.queueId === queueId).length;
const noticesTo = (sender: string): number =>
  g.postfix.delivered.filter((one) => one.sender === '' && one.recipient === sender).length;
const count = (types: readonly string[], type: string): number =>
  types.filter((one) => one === type).length;
/** The first retry is due 5 seconds after the first try. */
const firstRetry = () => g.clock.advance(6_000);

describe('the helper acts, and its answer is lost', () => {
  it('release: is asked for again, sees what was done, and nobody has it twice', async () => {
    const { id, queue_id: queueId } = await g.held();
    g.postfix.fail('acts_and_cuts', 'release');
    const reply = await g.act(id, 'release');
    expect([reply.status, reply.body.data.state]).toEqual([202, 'release_requested']);
    g.postfix.runQueue();
    firstRetry();
    await g.reaches(id, 'released');
    expect(got(queueId)).toBe(1);
    expect(await g.types(id)).toEqual([
      ...['added', 'release_requested', 'release_started', 'release_deferred'],
      ...['release_started', 'released'],
    ]);
  });

  it('release: does not then wait for the next run of the queue', async () => {
    const { id, queue_id: queueId } = await g.held();
    g.postfix.fail('acts_and_cuts', 'release');
    await g.act(id, 'release');
    firstRetry();
    await expect.poll(() => got(queueId), WAIT).toBe(1);
    await g.reaches(id, 'released');
  });

  it('discard: is found to be done', async () => {
    const { id, queue_id: queueId } = await g.held();
    g.postfix.fail('acts_and_cuts', 'discard');
    expect((await g.act(id, 'discard')).status).toBe(202);
    expect(g.postfix.queueOf(queueId)).toBeNull();
    await g.reaches(id, 'discarded');
    expect(await g.types(id)).toEqual(['added', 'discard_requested', 'discarded']);
  });

  it('reject: is found to be done, and the sender has one notice', async () => {
    const sender = 'once@sender.example';
    const { id, queue_id: queueId } = await g.held({ sender });
    g.postfix.fail('acts_and_cuts', 'bounce');
    expect((await g.act(id, 'reject')).status).toBe(202);
    g.postfix.runQueue();
    firstRetry();
    await g.reaches(id, 'rejected');
    g.postfix.runQueue();
    expect([noticesTo(sender), got(queueId)]).toEqual([1, 0]);
    expect((await g.types(id)).slice(-2)).toEqual(['reject_started', 'rejected']);
  });

  it('discard: the same while the mail log is some seconds behind', async () => {
    const { id } = await g.held();
    g.postfix.log.hold();
    g.postfix.fail('acts_and_cuts', 'discard');
    expect((await g.act(id, 'discard')).status).toBe(202);
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    g.postfix.log.flush();
    await expect.poll(() => g.stateOf(id), WAIT).not.toBe('discard_requested');
    expect(await g.types(id)).toEqual(['added', 'discard_requested', 'discarded']);
  });

  it('a requeue of what is old: is followed under its new id, and sent once', async () => {
    const at = new Date(Date.now() - 3 * 86_400_000);
    const { id } = await g.held({ at, recipients: ['requeued@example.com'] });
    g.postfix.fail('acts_and_cuts', 'requeue');
    expect((await g.act(id, 'release')).status).toBe(202);
    firstRetry();
    await g.reaches(id, 'released');
    const its = g.postfix.delivered.filter(({ recipient }) => recipient === 'requeued@example.com');
    expect(its).toHaveLength(1);
  });

  it('only the look at the queue afterwards is lost: the same', async () => {
    const { id, queue_id: queueId } = await g.held();
    // Whoever looks first, the helper is away until it has released.
    g.postfix.before('release', () => g.postfix.fail('cut', 'held', 3));
    expect((await g.act(id, 'release')).status).toBe(202);
    g.postfix.heal();
    g.postfix.runQueue();
    firstRetry();
    await g.reaches(id, 'released');
    expect(got(queueId)).toBe(1);
  });

  it('the gateway ends before it is asked again: it is settled after the start', async () => {
    const sender = 'restart@sender.example';
    const [mail, gone] = [await g.held({ sender }), await g.held()];
    g.postfix.fail('acts_and_cuts', 'bounce');
    g.postfix.fail('acts_and_cuts', 'discard');
    await Promise.all([g.act(mail.id, 'reject'), g.act(gone.id, 'discard')]);
    await g.restart(() => g.postfix.runQueue());
    firstRetry();
    await g.reaches(mail.id, 'rejected');
    await g.reaches(gone.id, 'discarded');
    expect(noticesTo(sender)).toBe(1);
  });
});

describe('the helper does nothing, and its answer is lost', () => {
  it.each([
    ['release', 'release', 'released'],
    ['discard', 'discard', 'discarded'],
    ['reject', 'bounce', 'rejected'],
  ] as const)('%s is asked for again, and done', async (action, verb, state) => {
    const { id, queue_id: queueId } = await g.held();
    g.postfix.fail('cut', verb);
    expect((await g.act(id, action)).status).toBe(202);
    expect(g.postfix.queueOf(queueId)).toBe('hold');
    firstRetry();
    await g.reaches(id, state);
    expect(got(queueId)).toBe(action === 'release' ? 1 : 0);
  });
});

describe('postsuper says nothing of it', () => {
  it('since the console was faster by a moment: it is asked again, and released', async () => {
    const { id, queue_id: queueId } = await g.held();
    g.postfix.between('release', () => g.postfix.console('release', queueId));
    expect((await g.act(id, 'release')).status).toBe(202);
    g.postfix.runQueue();
    firstRetry();
    await g.reaches(id, 'released');
    expect(got(queueId)).toBe(1);
  });

  it('since the console has removed it in that moment: it has vanished, and is not discarded', async () => {
    const { id, queue_id: queueId } = await g.held();
    g.postfix.between('release', () => g.postfix.console('discard', queueId));
    await g.act(id, 'release');
    firstRetry();
    await g.reaches(id, 'vanished');
    expect((await g.lastOf(id)).data).toEqual({ how: 'removed' });
    expect(got(queueId)).toBe(0);
  });
});

describe('while the helper is away', () => {
  it('actions stay open, events are few, readiness warns, and all is done once it is back', async () => {
    const [out, away, back, still] = await Promise.all([0, 1, 2, 3].map(() => g.held()));
    expect(await g.warnings()).toEqual([]);
    await g.postfix.down();
    const asked = await Promise.all([
      ...[g.act(out.id, 'release'), g.act(away.id, 'discard'), g.act(back.id, 'reject')],
    ]);
    expect(asked.map(({ status }) => status)).toEqual([202, 202, 202]);
    await expect.poll(() => g.warnings(), WAIT).toHaveLength(1);
    expect((await g.warnings())[0]).toContain('the Postfix helper cannot be reached');
    await new Promise((resolve) => setTimeout(resolve, 2.5 * WORKER_LOOK_MS));
    expect((await g.types(out.id)).slice(1)).toEqual([
      ...['release_requested', 'release_started', 'release_deferred'],
    ]);
    firstRetry();
    await expect.poll(async () => count(await g.types(out.id), 'release_deferred'), WAIT).toBe(2);
    await new Promise((resolve) => setTimeout(resolve, 1.5 * WORKER_LOOK_MS));
    expect(await g.types(out.id)).toHaveLength(6);
    expect(await g.types(back.id)).toHaveLength(6);
    expect(await g.types(away.id)).toEqual(['added', 'discard_requested']);
    expect(await g.types(still.id)).toEqual(['added']);
    await g.postfix.up();
    g.clock.advance(31_000);
    await g.reaches(out.id, 'released');
    await g.reaches(away.id, 'discarded');
    await g.reaches(back.id, 'rejected');
    expect([got(out.queue_id), await g.stateOf(still.id)]).toEqual([1, 'held']);
    await expect.poll(() => g.warnings(), WAIT).toEqual([]);
    expect(await g.itemsOf(still.queue_id)).toHaveLength(1);
  });

  it('503 unavailable: its bytes cannot be read, and no look is recorded', async () => {
    const { id } = await g.held();
    await g.postfix.down();
    const reply = await g.gateway().send('GET', `/mail/quarantine/messages/${id}/body`);
    await g.postfix.up();
    expect([reply.status, reply.body.error]).toEqual([503, 'unavailable']);
    expect(await g.types(id)).toEqual(['added']);
  });

  it('mail that comes and goes is found afterwards', async () => {
    const leaving = await g.held();
    await g.postfix.down();
    const { queueId } = g.postfix.arrive({ heldBy: 'rule' });
    g.postfix.console('discard', leaving.queue_id);
    await g.logRead();
    expect(await g.stateOf(leaving.id)).toBe('held');
    await g.postfix.up();
    expect(await g.listed(queueId)).toMatchObject({ state: 'held', held_by: 'rule' });
    await g.reaches(leaving.id, 'vanished');
    expect((await g.lastOf(leaving.id)).data).toEqual({ how: 'removed' });
  });
});
