import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { quarantinedMessageStream } from '../../src/domain/quarantined-message.ts';
import { type Reply, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { beforeReadsOf, holdAppends, recordsType } from '../support/hold.ts';
import { actOn, aMail, held, historyOf } from '../support/mail.ts';
import { allSince, factsSince, headOf } from '../support/recorded.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';

let t: TestGateway;
let sink: SmtpSink;
/** What the sink waits for before it takes a message. */
let door: Promise<void> = Promise.resolve();
beforeAll(async () => {
  sink = await startSmtpSink({ onMessage: () => door });
  const relay = `127.0.0.1:${sink.port}`;
  t = await startTestGateway({ config: { smtpRelay: relay } });
  for (const name of ['example.com', 'example.org']) {
    await t.createDomain(name, { backend_servers: [relay] });
  }
});
afterAll(async () => {
  await t.close();
  await sink.stop();
});

const BULK = '/mail/quarantine/bulk';
const begin = (body: object, key?: string): Promise<Reply> =>
  t.send('POST', BULK, { body, ...(key === undefined ? {} : { key }) });
const jobOf = async (id: string): Promise<any> => (await t.send('GET', `${BULK}/${id}`)).body.data;
/** The job once it has ended. */
async function ended(id: string): Promise<any> {
  await expect.poll(async () => (await jobOf(id)).ended_at, { timeout: 15_000 }).not.toBeNull();
  // What was done is in the log; the list follows it.
  const { log, projector } = t.gateway.context;
  await projector.caughtUp((await log.head()).position, ['quarantine']);
  return jobOf(id);
}
async function run(body: object): Promise<any> {
  const reply = await begin(body);
  expect(reply.status).toBe(202);
  return ended(reply.body.data.job_id);
}
async function holdMany(count: number, handing: object = {}): Promise<string[]> {
  const items = await Promise.all(Array.from({ length: count }, () => held(t, handing)));
  return items.map(({ id }) => id);
}
const stateOf = async (id: string): Promise<string> =>
  (await t.send('GET', `/mail/quarantine/messages/${id}`)).body.data.state;
const statesOf = async (ids: readonly string[]) => [
  ...new Set(await Promise.all(ids.map(stateOf))),
];
/** Makes the sink wait until it is opened. */
function shut(): () => void {
  let open = (): void => undefined;
  door = new Promise((resolve) => {
    open = resolve;
  });
  return open;
}

/** The database is away for these statements; returns what ends that. */
function failQueries(pattern: RegExp): () => void {
  const { pool } = t.gateway.context;
  const mutable = pool as unknown as { query: (...call: unknown[]) => Promise<unknown> };
  const { query } = mutable;
  mutable.query = async (...call) => {
    if (pattern.test(String(call[0]))) throw new Error('Connection terminated unexpectedly');
    return query.apply(pool, call);
  };
  return () => {
    mutable.query = query;
  };
}

describe('POST /mail/quarantine/bulk', () => {
  it('202: by ids, each once', async () => {
    const ids = await holdMany(3);
    const reply = await begin({ action: 'release', ids: [...ids, ids[0]] });
    expect([reply.status, reply.body.data.messages]).toEqual([202, 3]);
    const id = reply.body.data.job_id;
    expect(reply.headers.get('location')).toBe(`/api/v1${BULK}/${id}`);
    expect(await ended(id)).toMatchObject({
      job_id: id,
      action: 'release',
      dry_run: false,
      state: 'completed',
      counts: { released: 3 },
      items: ids.map((message) => ({ id: message, outcome: 'released', error: null })),
    });
    expect(await statesOf(ids)).toEqual(['released']);
  });

  it('202: by a filter of the list', async () => {
    const filtered = await holdMany(2, { raw: aMail('to be swept'), to: 'f@example.com' });
    const [other = ''] = await holdMany(1, { raw: aMail('to stay'), to: 'f@example.com' });
    const filter = { recipient: 'f@example.com', subject: 'SWEPT', min_score: 14 };
    expect((await run({ action: 'discard', filter })).counts).toEqual({ discarded: 2 });
    expect(await statesOf(filtered)).toEqual(['discarded']);
    expect(await stateOf(other)).toBe('held');
  });

  it('says what a dry run would do, and does nothing', async () => {
    const [one = '', two = ''] = await holdMany(2);
    await actOn(t, two, 'discard');
    const before = await headOf(t);
    const ids = [one, two, randomUUID()];
    const discarding = await run({ action: 'discard', ids, dry_run: true });
    expect(discarding).toMatchObject({
      dry_run: true,
      counts: { would: 1, unchanged: 1, refused: 1 },
    });
    const releasing = await run({ action: 'release', ids, dry_run: true });
    expect(releasing.items.map(({ error }: any) => error)).toEqual([
      null,
      'state_conflict',
      'not_found',
    ]);
    const types = (await factsSince(t, before)).map(({ type }) => type);
    expect([...new Set(types)]).toEqual(['quarantine.bulk_requested', 'quarantine.bulk_ended']);
    expect(await stateOf(one)).toBe('held');
  });

  it('tells of each message what became of it, and why not', async () => {
    const [good = '', gone = ''] = await holdMany(2);
    const [unrouted = ''] = await holdMany(1, { to: 'you@nobody.example' });
    await actOn(t, gone, 'discard');
    const unknown = randomUUID();
    const job = await run({ action: 'release', ids: [unknown, gone, unrouted, good] });
    expect(job.items).toEqual([
      { id: unknown, outcome: 'refused', error: 'not_found' },
      { id: gone, outcome: 'refused', error: 'state_conflict' },
      { id: unrouted, outcome: 'refused', error: 'no_route' },
      { id: good, outcome: 'released', error: null },
    ]);
    expect(job.counts).toEqual({ refused: 3, released: 1 });
  });

  it('bounces nothing that came from the null sender, and loses it neither', async () => {
    const [id = ''] = await holdMany(1, { from: '' });
    const [bounced = ''] = await holdMany(1, { from: 'bulk@sender.example' });
    const job = await run({ action: 'reject', ids: [id, bounced] });
    expect(job.items).toMatchObject([
      { outcome: 'refused', error: 'state_conflict' },
      { outcome: 'rejected', error: null },
    ]);
    expect(await stateOf(id)).toBe('held');
  });

  it('takes a database that is away for no missing message', async () => {
    const [id = ''] = await holdMany(1);
    let failures = 0;
    const end = beforeReadsOf(t.gateway.context.log, quarantinedMessageStream(id), async () => {
      if (failures > 0) return;
      failures += 1;
      throw Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    });
    const job = await run({ action: 'discard', ids: [id] });
    end();
    expect([failures, job.counts]).toEqual([1, { discarded: 1 }]);
  });

  it('503: does nothing when it could not be recorded', async () => {
    const [id = ''] = await holdMany(1);
    const { log } = t.gateway.context;
    const mutable = log as { append: typeof log.append };
    const { append } = log;
    mutable.append = async (command) => {
      if (!recordsType('quarantine.bulk_requested')(command)) return append(command);
      throw Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    };
    const reply = await begin({ action: 'discard', ids: [id] });
    mutable.append = append;
    expect(reply.status).toBe(503);
    // A later job has come to its end, so the runner has looked.
    await run({ action: 'release', ids: await holdMany(1) });
    expect(await stateOf(id)).toBe('held');
  });

  it('202: is carried out, however long it takes to be recorded', async () => {
    const [id = ''] = await holdMany(1);
    const { log, pool } = t.gateway.context;
    const recording = holdAppends(log, recordsType('quarantine.bulk_requested'));
    const begun = begin({ action: 'discard', ids: [id] });
    await recording.reached;
    const open = 'where ended_at is null';
    // By now it is taken for one that could not be recorded.
    await pool.query(`update quarantine_jobs set created_at = now() - interval '1 hour' ${open}`);
    const jobs = async () => (await pool.query(`select from quarantine_jobs ${open}`)).rowCount;
    await expect.poll(jobs).toBe(0);
    recording.release();
    const reply = await begun;
    expect(reply.status).toBe(202);
    expect((await ended(reply.body.data.job_id)).counts).toEqual({ discarded: 1 });
  });

  it('does not wait for another job whose messages wait', async () => {
    const [slow, quick] = [await holdMany(20), await holdMany(1)];
    const open = shut();
    const { job_id: first } = (await begin({ action: 'release', ids: slow })).body.data;
    await expect.poll(() => statesOf(slow), { timeout: 10_000 }).toContain('release_requested');
    expect((await run({ action: 'discard', ids: quick })).counts).toEqual({ discarded: 1 });
    expect((await jobOf(first)).ended_at).toBeNull();
    open();
    expect((await ended(first)).counts).toEqual({ released: 20 });
  });

  it('is on the record from request to end under one correlation', async () => {
    const ids = await holdMany(2);
    const before = await headOf(t);
    await run({ action: 'retrain', class: 'spam', ids, reason: 'a wave' });
    await run({ action: 'release', ids, reason: 'wanted' });
    const facts = await factsSince(t, before);
    const requests = facts.filter(({ type }) => type === 'quarantine.bulk_requested');
    expect(requests.map(({ disclosed }) => disclosed['reason'])).toEqual(['a wave', 'wanted']);
    for (const { resource, correlation_id, data } of requests) {
      const types = facts
        .filter((fact) => fact.correlation_id === correlation_id)
        .map(({ type }) => type.replace('quarantine.', ''));
      const each =
        data['action'] === 'release'
          ? ['release_requested', 'release_started', 'released']
          : ['retrain_requested', 'retrain_failed'];
      expect(types.toSorted()).toEqual(
        [...each, ...each, 'bulk_requested', 'bulk_ended'].toSorted(),
      );
      const end = facts.findLast((fact) => fact.resource.id === resource.id);
      expect(end).toMatchObject({ type: 'quarantine.bulk_ended', actor: { type: 'system' } });
    }
    const [, asked] = await historyOf(t, ids[0]!);
    expect(asked.actor.type).toBe('api_key');
  });

  it.each<[string, object]>([
    ['neither ids nor filter', { action: 'release' }],
    ['both', { action: 'release', ids: [randomUUID()], filter: {} }],
    ['no ids', { action: 'release', ids: [] }],
    ['retrain without a class', { action: 'retrain', ids: [randomUUID()] }],
    ['a class without retrain', { action: 'release', class: 'ham', ids: [randomUUID()] }],
    ['an unknown action', { action: 'burn', ids: [randomUUID()] }],
    ['a filter without a member, which would take everything', { action: 'release', filter: {} }],
    ['a bad filter', { action: 'release', filter: { since: 'yesterday' } }],
    ['5,001 ids', { action: 'release', ids: Array.from({ length: 5_001 }, () => randomUUID()) }],
  ])('400: %s', async (_, body) => {
    const before = await headOf(t);
    const reply = await begin(body);
    expect([reply.status, reply.body.error]).toEqual([400, 'validation_failed']);
    expect(await factsSince(t, before)).toEqual([]);
  });

  it('202: 5,000 ids; 413: what no body holds', async () => {
    const ids = Array.from({ length: 10_001 }, () => randomUUID());
    const most = await begin({ action: 'discard', ids: ids.slice(0, 5_000), dry_run: true });
    expect([most.status, most.body.data.messages]).toEqual([202, 5_000]);
    await t.send('POST', `${BULK}/${most.body.data.job_id}/cancel`);
    expect((await begin({ action: 'discard', ids })).status).toBe(413);
  });

  it('422: a filter by an unknown mail domain', async () => {
    const reply = await begin({ action: 'discard', filter: { domain: 'never.example' } });
    expect([reply.status, reply.body.error]).toEqual([422, 'unknown_mail_domain']);
  });
});

describe('POST …/bulk/{job_id}/cancel', () => {
  it('200: begins no further message, and tells what was left', async () => {
    const ids = await holdMany(30);
    const open = shut();
    const { job_id: id } = (await begin({ action: 'release', ids })).body.data;
    await expect.poll(() => statesOf(ids), { timeout: 10_000 }).toContain('release_requested');
    const reply = await t.send('POST', `${BULK}/${id}/cancel`);
    expect([reply.status, reply.body.message]).toEqual([200, 'Cancelled']);
    open();
    const job = await ended(id);
    expect(job.state).toBe('cancelled');
    const { released, cancelled, ...others } = job.counts;
    expect([released + cancelled, others]).toEqual([30, {}]);
    expect(cancelled).toBeGreaterThanOrEqual(30 - 12);
    const states = await Promise.all(ids.map(stateOf));
    expect(states.filter((state) => state === 'held')).toHaveLength(cancelled);
    const again = await t.send('POST', `${BULK}/${id}/cancel`);
    expect([again.status, again.body.error]).toEqual([409, 'state_conflict']);
  });

  it('503: once it is recorded it is meant, though the database went away then', async () => {
    const ids = await holdMany(30);
    const open = shut();
    const { job_id: id } = (await begin({ action: 'release', ids })).body.data;
    await expect.poll(() => statesOf(ids), { timeout: 10_000 }).toContain('release_requested');
    const end = failQueries(/set state = 'cancelled'/);
    expect((await t.send('POST', `${BULK}/${id}/cancel`)).status).toBe(503);
    end();
    open();
    const job = await ended(id);
    expect([job.state, job.counts]).toEqual(['cancelled', { released: 12, cancelled: 30 - 12 }]);
  });

  it('404: a job that nobody has', async () => {
    expect((await t.send('POST', `${BULK}/${randomUUID()}/cancel`)).status).toBe(404);
    expect((await t.send('GET', `${BULK}/${randomUUID()}`)).status).toBe(404);
  });
});

describe('a narrowed key', () => {
  it('acts on its own alone, and sees its own jobs alone', async () => {
    const make = (mail_domain: string) => t.createKey({ scope: 'quarantine-only', mail_domain });
    const [mine, other] = [await make('example.org'), await make('example.com')];
    const [own = ''] = await holdMany(1, { to: 'n@example.org', raw: aMail('narrowed') });
    const [foreign = ''] = await holdMany(1, { raw: aMail('narrowed') });
    const to = ['n@example.org', 'you@example.com'];
    const [shared = ''] = await holdMany(1, { to, raw: aMail('narrowed') });
    const begun = await begin({ action: 'discard', ids: [own, foreign, shared] }, mine.key);
    const job = await ended(begun.body.data.job_id);
    expect(job.items).toEqual([
      { id: own, outcome: 'discarded', error: null },
      { id: foreign, outcome: 'refused', error: 'not_found' },
      { id: shared, outcome: 'refused', error: 'foreign_recipients' },
    ]);
    const filter = { subject: 'narrowed' };
    const found = await begin({ action: 'discard', filter, dry_run: true }, mine.key);
    expect(found.body.data.messages).toBe(1);
    const path = `${BULK}/${job.job_id}`;
    expect((await t.send('GET', path, { key: mine.key })).status).toBe(200);
    for (const [method, suffix] of [
      ['GET', ''],
      ['POST', '/cancel'],
    ] as const) {
      expect((await t.send(method, path + suffix, { key: other.key })).status).toBe(404);
    }
    const whole = (await begin({ action: 'discard', ids: [own], dry_run: true })).body.data.job_id;
    expect((await t.send('GET', `${BULK}/${whole}`, { key: mine.key })).status).toBe(404);
  });
});

describe('after a stop in the middle', () => {
  it('a job goes on where it was, and leaves no message without an outcome', async () => {
    const ids = await holdMany(20);
    const open = shut();
    const { job_id: id } = (await begin({ action: 'release', ids })).body.data;
    await expect.poll(() => statesOf(ids), { timeout: 10_000 }).toContain('release_requested');
    const before = await headOf(t);
    t = await t.restart();
    open();
    const job = await ended(id);
    // What the stop has cut is tried again when its time comes, for which the job does not wait.
    const { released = 0, under_way: later = 0, ...others } = job.counts;
    expect([job.state, released + later, others]).toEqual(['completed', 20, {}]);
    await expect.poll(() => statesOf(ids), { timeout: 15_000 }).toEqual(['released']);
    const ends = (await allSince(t, before)).filter(({ type }) => type === 'quarantine.released');
    expect(ends).toHaveLength(20);
  });
});
