import { expect } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { endRetention } from '../../src/integrations/quarantine-retention.ts';
import { type FakePostfix, startFakePostfix } from './fake-postfix.ts';
import { type Reply, startTestGateway, type TestGateway, testClock } from './gateway.ts';
import { actOn, historyOf } from './mail.ts';

const PASSWORD = 'the ingest password of a test';
const DAY_MS = 86_400_000;
const LOOK_MS = 50;
/** The mail log is read twice a second. */
const LOG_READ_MS = 700;
const WAIT = { timeout: 10_000, interval: 20 };

export type Announced = Readonly<{ score?: number; symbols?: readonly string[] }>;
export type PostfixGateway = Awaited<ReturnType<typeof startPostfixGateway>>;

/** Resolves when the gateway has read what the mail log has now. */
const logRead = () => new Promise((resolve) => setTimeout(resolve, LOG_READ_MS));

/** A gateway whose mail is held by a fake Postfix, and a clock that can be put on. */
export async function startPostfixGateway() {
  const postfix = await startFakePostfix();
  const clock = testClock();
  const { postfix: settings } = loadConfig({
    MAILGUARD_QUARANTINE_STORE: 'postfix',
    MAILGUARD_POSTFIX_SOCKET: postfix.socket,
    MAILGUARD_POSTFIX_LOG: postfix.mailLog,
  });
  const config = { postfix: settings, ingestPassword: PASSWORD };
  let t = await startTestGateway({ clock, config, holdQueueLookMs: LOOK_MS });
  await t.createDomain('example.com');
  let ids = 0;
  const item = async (id: string): Promise<any> =>
    (await t.send('GET', `/mail/quarantine/messages/${id}`)).body.data;
  const idsOf = async (queueIds: readonly string[]): Promise<string[]> => {
    const { rows } = await t.gateway.context.pool.query<{ id: string }>(
      'select id from quarantined_messages where queue_id = any($1)',
      [queueIds],
    );
    return rows.map(({ id }) => id);
  };
  /** Everything that was ever held under a queue id. */
  const itemsOf = async (queueId: string): Promise<any[]> =>
    Promise.all((await idsOf([queueId])).map(item));
  /** Once so many were held under a queue id: the one that is held now. */
  async function listed(queueId: string, count = 1): Promise<any> {
    await expect.poll(async () => (await idsOf([queueId])).length, WAIT).toBe(count);
    const items = await itemsOf(queueId);
    return items.find(({ state }) => state === 'held') ?? items.at(-1);
  }
  return {
    postfix,
    clock,
    gateway: (): TestGateway => t,
    /** An id that no other message has. */
    newQueueId(): string {
      ids += 1;
      return `4kBc${String(ids).padStart(7, '0')}z1TwMx`;
    },
    /** As rspamd's exporter tells of a message. */
    async announce(queueId: string, { score = 13.4, symbols = ['TEST_HELD'] }: Announced = {}) {
      const response = await fetch(`${t.url}/api/v1/mail/quarantine`, {
        method: 'POST',
        headers: {
          Authorization: `Basic ${Buffer.from(`ingest:${PASSWORD}`).toString('base64')}`,
          'Content-Type': 'application/json',
        },
        body: JSON.stringify({
          ...{ subject: 'held one', user: 'unknown', qid: queueId, score, action: 'quarantine' },
          ...{ rcpt: ['you@example.com'], ip: '192.0.2.7', fuzzy: [] },
          symbols: symbols.map((name) => ({ name, score: 1, groups: [], group: 'ungrouped' })),
        }),
      });
      return response.status;
    },
    /** Lets a message arrive, and gives its item. */
    async held(arrival: Parameters<FakePostfix['arrive']>[0] = {}): Promise<any> {
      return listed(postfix.arrive(arrival).queueId);
    },
    listed,
    idsOf,
    itemsOf,
    item,
    stateOf: async (id: string): Promise<string> => (await item(id)).state,
    reaches: (id: string, state: string) =>
      expect.poll(async () => (await item(id)).state, WAIT).toBe(state),
    act: (id: string, action: string, body: object = {}): Promise<Reply> =>
      actOn(t, id, action, { body }),
    types: async (id: string): Promise<string[]> =>
      (await historyOf(t, id)).map(({ type }) => type.replace('quarantine.', '')),
    lastOf: async (id: string): Promise<any> => (await historyOf(t, id)).at(-1),
    /** How often the helper was asked for something about a message, or at all. */
    asks: (verb: string, queueId = '') =>
      postfix.asked.filter((one) => one.verb === verb && one.lines.join('\n').includes(queueId))
        .length,
    /** Waits until the hold queue was looked at so often from now on. */
    async looks(count: number): Promise<void> {
      const seen = () => postfix.asked.filter(({ verb }) => verb === 'held').length;
      const before = seen();
      // The last of them may be under way.
      await expect.poll(() => seen() - before, WAIT).toBeGreaterThan(count);
    },
    logRead,
    /** Does something at the mail server that the gateway reads of in the log, and then sees. */
    async unseen<T>(work: () => T): Promise<T> {
      postfix.fail('cut', 'held', 1_000);
      const done = work();
      await logRead();
      postfix.heal();
      return done;
    },
    /** Ends what is held beyond its time, as if so many days had passed. */
    async endAfter(days: number): Promise<number> {
      const { pool, log, quarantine, clock: now, config: its } = t.gateway.context;
      const nowMs = () => now.nowMs() + days * DAY_MS;
      const later = { nowMs, now: () => new Date(nowMs()) };
      const { store } = quarantine;
      return endRetention({ pool, log, store, clock: later, nodeId: its.nodeId });
    },
    async restart(meanwhile: () => void): Promise<void> {
      await t.gateway.stop();
      meanwhile();
      t = await t.restart();
    },
    warnings: async (): Promise<string[]> => (await t.send('GET', '//readyz')).body.data.warnings,
    async stop(): Promise<void> {
      await t.close();
      await postfix.stop();
    },
  };
}
