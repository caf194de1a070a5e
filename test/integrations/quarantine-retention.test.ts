import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { endRetention } from '../../src/integrations/quarantine-retention.ts';
import { type Reply, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { holdQueries } from '../support/hold.ts';
import { actOn, aMail, held, historyOf, spoolFile } from '../support/mail.ts';
import { headOf } from '../support/recorded.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';

const DAY_MS = 86_400_000;
let t: TestGateway;
let sink: SmtpSink;
/** While it waits, whoever sends to the sink does. */
let onMessage: () => Promise<void> = async () => undefined;
beforeAll(async () => {
  sink = await startSmtpSink({ onMessage: () => onMessage() });
  t = await startTestGateway();
  const backend = { backend_servers: [`127.0.0.1:${sink.port}`] };
  await t.createDomain('example.com', { ...backend, quarantine_retention_days: 3 });
  await t.createDomain('example.org', { ...backend, quarantine_retention_days: 30 });
});
afterAll(async () => {
  await t.close();
  await sink.stop();
});

/** Makes the sink wait with its answer to the next message. */
function stall(): { arrived: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const arrived = new Promise<void>((resolve) => {
    onMessage = () => {
      onMessage = async () => undefined;
      resolve();
      return opened;
    };
  });
  return { arrived, open: () => open() };
}

/** The job, as if so many days had passed. */
async function endAfter(days: number, stopping = new AbortController()): Promise<number> {
  const { pool, log, quarantine, clock, config } = t.gateway.context;
  const nowMs = () => clock.nowMs() + days * DAY_MS;
  const later = { nowMs, now: () => new Date(nowMs()) };
  const { nodeId } = config;
  const deps = { pool, log, store: quarantine.store, clock: later, nodeId };
  const ended = await endRetention(deps, stopping.signal);
  const { position } = await log.head();
  await t.gateway.context.projector.caughtUp(position, ['quarantine']);
  return ended;
}
const stateOf = async (id: string): Promise<string> =>
  (await t.send('GET', `/mail/quarantine/messages/${id}`)).body.data.state;
const typesOf = async (id: string) => (await historyOf(t, id)).map(({ type }) => type);
const get = (id: string, what: string) => t.send('GET', `/mail/quarantine/messages/${id}/${what}`);

describe('when its retention has ended', () => {
  it('a held message expires: the event is the system’s, and the bytes are gone', async () => {
    const short = await held(t);
    const long = await held(t, { to: 'you@example.org' });
    expect(await endAfter(4)).toBe(1);
    expect(await stateOf(short.id)).toBe('expired');
    expect(existsSync(spoolFile(t, short.id))).toBe(false);
    const [, expired, ...more] = await historyOf(t, short.id);
    expect(expired).toMatchObject({ type: 'quarantine.expired', actor: { type: 'system' } });
    expect(more).toEqual([]);
    expect((await get(short.id, 'body')).body.error).toBe('content_gone');
    expect(await stateOf(long.id)).toBe('held');
    expect(existsSync(spoolFile(t, long.id))).toBe(true);
  });

  it('is not held a moment less', async () => {
    const { id } = await held(t);
    expect(await endAfter(2.99)).toBe(0);
    expect(await stateOf(id)).toBe('held');
    expect(await endAfter(3)).toBe(1);
  });

  it('a second time changes nothing', async () => {
    await held(t);
    expect(await endAfter(4)).toBe(1);
    const before = await headOf(t);
    expect(await endAfter(4)).toBe(0);
    expect(await headOf(t)).toBe(before);
  });

  it('many end in one turn', async () => {
    const { pool } = t.gateway.context;
    const ids = await Promise.all(Array.from({ length: 12 }, async () => (await held(t)).id));
    const { messages } = t.gateway.context.quarantine.store.usage();
    expect(await endAfter(4)).toBe(12);
    expect(t.gateway.context.quarantine.store.usage().messages).toBe(messages - 12);
    const { rows } = await pool.query(
      `select distinct state, is_open, has_content from quarantined_messages where id = any($1)`,
      [ids],
    );
    expect(rows).toEqual([{ state: 'expired', is_open: false, has_content: false }]);
  });

  it('those that a stop leaves end in the next turn', async () => {
    const { store } = t.gateway.context.quarantine;
    await Promise.all(Array.from({ length: 20 }, () => held(t)));
    const { remove } = store;
    const stopping = new AbortController();
    Object.assign(store, {
      async remove(id: string) {
        stopping.abort();
        return remove(id);
      },
    });
    const ended = await endAfter(4, stopping).finally(() => Object.assign(store, { remove }));
    expect(ended).toBeGreaterThan(0);
    expect(ended).toBeLessThan(20);
    expect(await endAfter(4)).toBe(20 - ended);
  });

  it('a released message loses its bytes, without an event', async () => {
    const { id } = await held(t);
    expect((await actOn(t, id, 'release')).status).toBe(200);
    expect(existsSync(spoolFile(t, id))).toBe(true);
    const before = await headOf(t);
    expect(await endAfter(4)).toBe(1);
    expect(await headOf(t)).toBe(before);
    expect(existsSync(spoolFile(t, id))).toBe(false);
    expect(await stateOf(id)).toBe('released');
    expect((await get(id, 'body')).status).toBe(410);
  });

  it('a message that is being released is left alone', async () => {
    const { id } = await held(t);
    const { arrived, open } = stall();
    const releasing = actOn(t, id, 'release');
    await arrived;
    expect(await endAfter(4)).toBe(0);
    expect(existsSync(spoolFile(t, id))).toBe(true);
    open();
    expect((await releasing).body.data.state).toBe('released');
    expect(await typesOf(id)).not.toContain('quarantine.expired');
    await endAfter(4);
  });

  it('a release that comes between the look and the event wins, and keeps its bytes', async () => {
    const { pool } = t.gateway.context;
    const { id } = await held(t);
    const { arrived, open } = stall();
    let releasing: Promise<Reply> | null = null;
    const look = holdQueries(pool, /has_content and expires_at <=/, async () => {
      releasing = actOn(t, id, 'release');
      await arrived;
    });
    const ending = endAfter(4);
    await look.reached;
    look.release();
    expect(await ending).toBe(0);
    expect(existsSync(spoolFile(t, id))).toBe(true);
    // A start would sweep the bytes of what is marked as without.
    const { rows } = await pool.query(
      'select has_content from quarantined_messages where id = $1',
      [id],
    );
    expect(rows).toEqual([{ has_content: true }]);
    open();
    expect(await releasing!).toMatchObject({ status: 200, body: { data: { state: 'released' } } });
  });
});

describe('at the start', () => {
  it('orphans are swept, and what is held stays', async () => {
    const { id } = await held(t, { to: 'you@example.org' });
    const { id: discarded } = await held(t);
    await actOn(t, discarded, 'discard');
    const orphan = `019683b4-a5c8-7857-bd64-bba9f0cfe2${id.slice(-2)}`;
    // As if the process had ended before the event of the one, and behind that of the other.
    writeFileSync(spoolFile(t, orphan), aMail());
    writeFileSync(spoolFile(t, discarded), aMail());
    const { messages } = t.gateway.context.quarantine.store.usage();
    t = await t.restart();
    expect(existsSync(spoolFile(t, orphan))).toBe(false);
    expect(existsSync(spoolFile(t, discarded))).toBe(false);
    expect(existsSync(spoolFile(t, id))).toBe(true);
    expect(t.gateway.context.quarantine.store.usage().messages).toBe(messages);
    expect(t.logged.join('')).toContain('removed from the spool');
    expect((await get(id, 'body')).text).toBe(aMail());
  });
});

describe('a message whose file is missing', () => {
  it.each(['body', 'preview'])(
    '410 content_gone: GET …/%s, and no look is recorded',
    async (what) => {
      const { id } = await held(t);
      rmSync(spoolFile(t, id));
      const reply = await get(id, what);
      expect([reply.status, reply.body.error]).toEqual([410, 'content_gone']);
      expect(await typesOf(id)).toEqual(['quarantine.added']);
    },
  );

  it('409 release_failed: its release says that it has vanished', async () => {
    const { id } = await held(t);
    rmSync(spoolFile(t, id));
    const reply = await actOn(t, id, 'release');
    expect([reply.status, reply.body.error]).toEqual([409, 'release_failed']);
    expect(reply.body.data.state).toBe('vanished');
    expect((await typesOf(id)).slice(1)).toEqual([
      'quarantine.release_requested',
      'quarantine.release_started',
      'quarantine.release_failed',
      'quarantine.vanished',
    ]);
    const failed = (await historyOf(t, id)).find(({ type }) => type.endsWith('release_failed'));
    expect(failed.data.cause).toBe('content_gone');
    expect((await actOn(t, id, 'release')).body.error).toBe('state_conflict');
  });

  it('is discarded, and expires, all the same', async () => {
    const [one, two] = [await held(t), await held(t)];
    for (const { id } of [one, two]) rmSync(spoolFile(t, id));
    expect((await actOn(t, one.id, 'discard')).body.data.state).toBe('discarded');
    await endAfter(4);
    expect(await stateOf(two.id)).toBe('expired');
  });
});
