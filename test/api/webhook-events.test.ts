import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { asAdmin } from '../support/database.ts';
import { happen, oneTo } from '../support/deliveries.ts';
import { type Reply, startTestGateway, type TestGateway } from '../support/gateway.ts';
import {
  LOOPBACK,
  type Received,
  type Receiver,
  startReceiver,
} from '../support/webhook-receiver.ts';
import { caughtUp, eventually, issuesOf, look, subscribe, told } from '../support/webhooks.ts';

const TYPE = 'quarantine.content_read';

let t: TestGateway;
let receiver: Receiver;
let own: { id: number; name: string };
let narrowed: string;
beforeAll(async () => {
  t = await startTestGateway({ config: LOOPBACK, webhooks: { random: () => 0, lookMs: 40 } });
  receiver = await startReceiver();
  own = await t.createDomain('own.example');
  narrowed = (await t.createKey({ mail_domain: own.id })).key;
});
afterAll(async () => {
  await t.close();
  await receiver.close();
});

const living: number[] = [];
afterEach(async () => {
  receiver.behave(() => ({}));
  for (const id of living.splice(0)) await t.send('DELETE', `/webhooks/${id}`);
});

let places = 0;
async function make(fields: object = {}) {
  places += 1;
  const url = `${receiver.url}/${places}`;
  const made = await subscribe(t, { url, event_types: [TYPE], ...fields });
  living.push(made.id);
  return made as typeof made & { url: string };
}
let domains = 0;
/** Under a name that no restart gives out again. */
const aDomain = () => {
  domains += 1;
  return t.createDomain(`w${domains}.example.net`);
};
const at = (url: string): Received[] => receiver.received.filter(({ path }) => url.endsWith(path));
/** What was posted to a place, each event once, in the order of the log. */
const posted = (url: string): Received[] =>
  [...new Map(at(url).map((one) => [one.id, one])).values()].sort(
    (a, b) => Number(a.payload.log.position) - Number(b.payload.log.position),
  );
const pull = (id: number, query = '', key?: string): Promise<Reply> =>
  t.send('GET', `/webhooks/${id}/events${query}`, key === undefined ? {} : { key });
/** The elements of `data` as they stand in the answer's text. */
const dataTextOf = ({ text }: Reply): string =>
  text.slice(text.indexOf('"data":') + '"data":'.length, text.lastIndexOf(',"error"'));
const sequencesIn = ({ body }: Reply): (number | null)[] =>
  body.data.map(({ sequence }: { sequence: number | null }) => sequence);
const nextOf = (reply: Reply): string => reply.headers.get('x-next-cursor') ?? '';

describe('GET /webhooks/{id}/events answers', () => {
  it('200 with the bytes that were posted, in the order of the log, and nothing else', async () => {
    const one = await make({ event_types: ['*'] });
    const { id } = await aDomain();
    await t.send('DELETE', `/domains/${id}`);
    await happen(t, 20);
    await caughtUp(t, one.id);
    const reply = await pull(one.id, '?limit=1000');
    expect(reply.status).toBe(200);
    const bodies = posted(one.url).map(({ body }) => body);
    expect(bodies).toHaveLength(22);
    expect(dataTextOf(reply)).toBe(`[${bodies.join(',')}]`);
    expect(reply.headers.get('x-has-more')).toBe('false');
    expect(sequencesIn(reply)).toEqual(oneTo(22));
  });

  it('200 with the bytes of a narrowed subscription, to a key of its mail domain', async () => {
    const one = await make({ event_types: ['mail_domain.updated'], mail_domain: own.id });
    const other = await aDomain();
    for (const id of [own.id, other.id, own.id]) {
      const body = { tenant_id: `tenant-${places}-${id}-${Math.random()}` };
      await t.send('PATCH', `/domains/${id}`, { body });
    }
    await caughtUp(t, one.id);
    const reply = await pull(one.id, '', narrowed);
    expect(dataTextOf(reply)).toBe(
      `[${posted(one.url)
        .map(({ body }) => body)
        .join(',')}]`,
    );
    expect(sequencesIn(reply)).toEqual([1, 2]);
  });

  it('200 with what was not delivered: of a paused one, and behind one that fails', async () => {
    const paused = await make({ enabled: false });
    const failing = await make({ ordering: 'strict' });
    receiver.behave(() => ({ status: 500 }));
    await happen(t, 5);
    await eventually(() => expect(at(failing.url)).toHaveLength(1));
    for (const { id } of [paused, failing]) {
      expect(sequencesIn(await pull(id))).toEqual(oneTo(5));
    }
    // Reading it has moved nothing.
    expect(at(paused.url)).toEqual([]);
    expect((await look(t, paused.id, '/stats')).oldest_waiting_at).not.toBeNull();
  });

  it('200 page by page, where each cursor goes on, and the last one waits for what comes', async () => {
    const one = await make({ enabled: false });
    await happen(t, 25);
    const seen: (number | null)[] = [];
    let reply = await pull(one.id, '?limit=10');
    for (let pages = 1; ; pages += 1) {
      seen.push(...sequencesIn(reply));
      const link = reply.headers.get('link');
      expect(link === null).toBe(reply.headers.get('x-has-more') === 'false');
      if (link === null) break;
      expect(pages).toBeLessThan(5);
      expect(link).toBe(
        `</api/v1/webhooks/${one.id}/events?cursor=${nextOf(reply)}&limit=10>; rel="next"`,
      );
      reply = await pull(one.id, `?limit=10&cursor=${nextOf(reply)}`);
    }
    expect(seen).toEqual(oneTo(25));
    const empty = await pull(one.id, `?cursor=${nextOf(reply)}`);
    expect([empty.body.data, empty.headers.get('x-has-more')]).toEqual([[], 'false']);
    await happen(t, 1);
    expect(sequencesIn(await pull(one.id, `?cursor=${nextOf(empty)}`))).toEqual([26]);
    // A cursor does not wear out, and a restart changes none.
    t = await t.restart();
    expect(sequencesIn(await pull(one.id, `?cursor=${nextOf(empty)}`))).toEqual([26]);
  });

  it('200 from a cursor without counting what lies before it, also behind a change of the filter', async () => {
    const one = await make({ enabled: false });
    await happen(t, 3);
    const first = nextOf(await pull(one.id, '?limit=2'));
    const last = nextOf(await pull(one.id));
    const event_types = [TYPE, 'mail_domain.created'];
    await t.send('PATCH', `/webhooks/${one.id}`, { body: { event_types } });
    await happen(t, 2);
    const { log } = t.gateway.context;
    const { count } = log;
    const counted: object[] = [];
    Object.assign(log, {
      count: (...range: Parameters<typeof count>) => {
        counted.push(range);
        return count(...range);
      },
    });
    const pages = [await pull(one.id, `?cursor=${first}`), await pull(one.id, `?cursor=${last}`)];
    expect(pages.map(sequencesIn)).toEqual([
      [3, 1, 2],
      [1, 2],
    ]);
    expect(counted).toEqual([]);
    // The same place by its position has to be counted.
    const { position } = pages[0]?.body.data[0].log ?? {};
    expect(sequencesIn(await pull(one.id, `?after=${position}`))).toEqual([1, 2]);
    expect(counted).toHaveLength(1);
    Object.assign(log, { count });
  });

  it('200 from behind a position that a payload told, and to a read-only key', async () => {
    const one = await make({ enabled: false });
    await happen(t, 6);
    const { key } = await t.createKey();
    const { body } = await pull(one.id, '', key);
    const { position } = body.data[2].log;
    expect(sequencesIn(await pull(one.id, `?after=${position}`))).toEqual([4, 5, 6]);
  });

  it('200 with what lies before the subscription, unnumbered, where `after` reaches it', async () => {
    await happen(t, 3);
    const one = await make({ enabled: false });
    await happen(t, 2);
    expect(sequencesIn(await pull(one.id))).toEqual([1, 2]);
    const all = sequencesIn(await pull(one.id, '?after=0&limit=1000'));
    expect(all.slice(-5)).toEqual([null, null, null, 1, 2]);
  });

  it('200 by the filter that counted where the event stands, and with what was left out', async () => {
    const one = await make({ enabled: false });
    await happen(t, 2);
    await t.send('PATCH', `/webhooks/${one.id}`, {
      body: { event_types: ['mail_domain.created'] },
    });
    await happen(t, 2);
    await aDomain();
    const places = (reply: Reply) =>
      reply.body.data.map(({ type, epoch, sequence }: any) => [type, epoch, sequence]);
    const expected = [
      [TYPE, 1, 1],
      [TYPE, 1, 2],
      ['mail_domain.created', 2, 1],
    ];
    expect(places(await pull(one.id))).toEqual(expected);
    receiver.behave(() => ({ status: 410 }));
    await t.send('POST', `/webhooks/${one.id}/resume`);
    await eventually(async () => expect((await look(t, one.id)).status).toBe('disabled'));
    await t.send('POST', `/webhooks/${one.id}/enable`, { body: { resume: 'now' } });
    await aDomain();
    expect(places(await pull(one.id))).toEqual([...expected, ['mail_domain.created', 3, 1]]);
  });

  it('200 as a table, when that is asked for', async () => {
    const one = await make({ enabled: false });
    await happen(t, 2);
    const reply = await t.send('GET', `/webhooks/${one.id}/events`, {
      headers: { Accept: 'text/csv' },
    });
    expect(reply.headers.get('content-type')).toContain('text/csv');
    expect(reply.text.trimEnd().split('\r\n')).toHaveLength(3);
  });

  it.each([
    ['cursor=', 'validation_failed', ['cursor']],
    ['after=x', 'validation_failed', ['after']],
    ['after=-1', 'validation_failed', ['after']],
    ['limit=0', 'validation_failed', ['limit']],
    ['limit=1001', 'validation_failed', ['limit']],
    ['order=desc', 'validation_failed', ['order']],
    ['cursor=nonsense', 'invalid_cursor', []],
  ])('400 for ?%s', async (query, error, issues) => {
    const one = await make({ enabled: false });
    const reply = await pull(one.id, `?${query}`);
    expect([...told(reply), issuesOf(reply)]).toEqual([400, error, issues]);
  });

  it('400 for a cursor together with a position', async () => {
    const one = await make({ enabled: false });
    const reply = await pull(one.id, `?after=1&cursor=${nextOf(await pull(one.id))}`);
    expect([...told(reply), issuesOf(reply)]).toEqual([400, 'validation_failed', ['after']]);
  });

  it('400 for a cursor of another webhook, of the audit log, and of another scope', async () => {
    const one = await make({ enabled: false });
    const other = await make({ enabled: false });
    const { key } = await t.createKey();
    const cursors = [
      nextOf(await pull(other.id)),
      nextOf(await t.send('GET', '/audit/logs?limit=1')),
      nextOf(await pull(one.id, '', key)),
    ];
    for (const cursor of cursors) {
      const reply = await pull(one.id, `?cursor=${cursor}`);
      expect(told(reply)).toEqual([400, 'cursor_filter_mismatch']);
    }
  });

  it('404 for one that is not there, and to a key of another mail domain', async () => {
    const one = await make({ enabled: false });
    expect(told(await pull(999_999))).toEqual([404, 'not_found']);
    expect(told(await pull(one.id, '', narrowed))).toEqual([404, 'not_found']);
  });

  it('403 to a key that may only work in the quarantine', async () => {
    const one = await make({ enabled: false });
    const { key } = await t.createKey({ scope: 'quarantine-only' });
    expect(told(await pull(one.id, '', key))).toEqual([403, 'scope_forbidden']);
  });

  it('409 for a position that the log does not have yet', async () => {
    const one = await make({ enabled: false });
    expect(told(await pull(one.id, '?after=99999999'))).toEqual([409, 'cursor_ahead_of_log']);
  });

  it('410 where the log has no more what the webhook begins with, rather than stepping over it', async () => {
    const one = await make({ enabled: false });
    await happen(t, 3);
    const [, , third] = (await pull(one.id)).body.data;
    const minimum = `update eventlog.log_info set minimum_position =`;
    await asAdmin(t.database.url, `${minimum} ${third.log.position}`);
    t = await t.restart();
    const reply = await pull(one.id);
    expect([...told(reply), reply.body.data]).toEqual([
      410,
      'cursor_gone',
      { minimum_position: third.log.position },
    ]);
    const after = BigInt(third.log.position) - 1n;
    expect(sequencesIn(await pull(one.id, `?after=${after}`))).toEqual([3]);
  });
});
