import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import { asAdmin } from '../support/database.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { allSince, headOf, recording } from '../support/recorded.ts';
import { tracesOf } from '../support/traces.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import { caughtUp, eventually, look, subscribe, told } from '../support/webhooks.ts';

let t: TestGateway;
let receiver: Receiver;
/** Is told of every mail domain that is made: what it has, others would have had. */
let witness: Receiver;
beforeAll(async () => {
  t = await startTestGateway({ config: LOOPBACK });
  receiver = await startReceiver();
  witness = await startReceiver();
  await subscribe(t, { url: witness.url });
});
afterAll(async () => {
  await t.close();
  await receiver.close();
  await witness.close();
});

let domains = 0;
/** Under a name that no restart gives out again. */
const newDomain = () => {
  domains += 1;
  return t.createDomain(`w${domains}.example.net`);
};
let places = 0;
const aUrl = () => {
  places += 1;
  return `${receiver.url}/${places}`;
};
const at = (url: string) => receiver.received.filter(({ path }) => url.endsWith(path));
const held = (fields: object = {}, key?: string) =>
  subscribe(t, { url: aUrl(), enabled: false, ...fields }, key);
const remove = (id: number, options: { key?: string; etag?: string } = {}) =>
  recording(t, () =>
    t.send('DELETE', `/webhooks/${id}`, {
      ...(options.key === undefined ? {} : { key: options.key }),
      ...(options.etag === undefined ? {} : { headers: { 'If-Match': options.etag } }),
    }),
  );
/** Makes a mail domain, and waits until whoever has to be told of it was told. */
async function tickAndWait(): Promise<void> {
  const before = witness.received.length;
  await newDomain();
  await witness.until(before + 1);
}

describe('DELETE /webhooks/{id}', () => {
  it('200: and it is gone', async () => {
    const own = await newDomain();
    const { id } = await held({ mail_domain: own.id });
    const { reply, facts } = await remove(id);
    expect([reply.status, reply.body]).toEqual([
      200,
      { data: null, error: null, message: 'Deleted' },
    ]);
    expect(facts).toMatchObject([
      {
        type: 'webhook.deleted',
        stream: `webhook-${id}`,
        resource: { type: 'webhook', id: String(id) },
        mail_domains: [String(own.id)],
        data: {},
        outcome: 'success',
      },
    ]);
    expect(facts[0]?.disclosed).not.toHaveProperty('url');
    const ids = (await t.send('GET', '/webhooks?limit=1000')).body.data.map(
      (one: { id: number }) => one.id,
    );
    expect(ids).not.toContain(id);
  });

  it('404: nothing answers to its id any more', async () => {
    const { id } = await held();
    await remove(id);
    const nothing = (await t.send('GET', '/webhooks/999999')).text;
    const event = randomUUID();
    for (const [method, path, body] of [
      ['GET', ''],
      ['PATCH', '', {}],
      ['DELETE', ''],
      ['POST', '/pause'],
      ['POST', '/resume'],
      ['POST', '/enable'],
      ['POST', '/ping'],
      ['POST', '/secret/rotate'],
      ['GET', '/stats'],
      ['GET', '/deliveries'],
      ['GET', `/deliveries/${event}/attempts`],
      ['POST', `/deliveries/${event}/resend`],
      ['GET', '/parked'],
      ['GET', '/replays'],
      ['POST', '/replays', { from: 'earliest', reason: 'x' }],
      ['GET', '/replays/1'],
      ['DELETE', '/replays/1'],
    ] as const) {
      const { reply, facts } = await recording(t, () =>
        t.send(method, `/webhooks/${id}${path}`, body === undefined ? {} : { body }),
      );
      expect([method, path, reply.status, reply.text]).toEqual([method, path, 404, nothing]);
      expect(facts).toEqual([]);
    }
  });

  it('404: one that is not for this key', async () => {
    const [own, foreign] = [await newDomain(), await newDomain()];
    const { key } = await t.createKey({ scope: 'domain-admin', mail_domain: own.id });
    for (const { id } of [await held(), await held({ mail_domain: foreign.id })]) {
      const { reply, facts } = await remove(id, { key });
      expect([told(reply), facts]).toEqual([[404, 'not_found'], []]);
      expect((await look(t, id)).id).toBe(id);
    }
    const mine = await held({}, key);
    expect((await remove(mine.id, { key })).reply.status).toBe(200);
  });

  it('403: a key that only reads, or acts on the quarantine alone', async () => {
    const { id } = await held();
    for (const scope of ['read-only', 'quarantine-only']) {
      const { key } = await t.createKey({ scope });
      const { reply, facts } = await remove(id, { key });
      expect([told(reply), facts]).toEqual([[403, 'scope_forbidden'], []]);
    }
  });

  it('412: changed since', async () => {
    const { id } = await held();
    await t.send('PATCH', `/webhooks/${id}`, { body: { ordering: 'key' } });
    const { reply, facts } = await remove(id, { etag: '"0"' });
    expect([told(reply), facts]).toEqual([[412, 'stale'], []]);
    expect((await remove(id, { etag: '"1"' })).reply.status).toBe(200);
  });

  it('400: an If-Match that is no revision', async () => {
    const { id } = await held();
    for (const etag of ['W/"0"', '0', '"0", "1"']) {
      expect(told((await remove(id, { etag })).reply)).toEqual([400, 'validation_failed']);
    }
  });

  it('when its answer is here, nothing more is begun, and what was under way is recorded', async () => {
    const url = aUrl();
    let open: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    receiver.behave(async ({ path }) => {
      if (url.endsWith(path)) await gate;
      return {};
    });
    const { id } = await subscribe(t, { url });
    const before = witness.received.length;
    for (let n = 0; n < 40; n += 1) await newDomain();
    await witness.until(before + 40);
    // All that may be under way at once is.
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(16),
    );
    expect((await remove(id)).reply.status).toBe(200);
    await tickAndWait();
    open();
    await eventually(
      async () =>
        (
          await t.database.pool.query(
            "select 1 from webhook_attempts where webhook_id = $1 and outcome = 'delivered'",
            [id],
          )
        ).rowCount,
      (n) => expect(n).toBe(16),
    );
    await tickAndWait();
    expect(at(url)).toHaveLength(16);
    receiver.behave(() => ({}));
  });

  it('a failing one is not retried any more', async () => {
    const url = aUrl();
    receiver.behave(({ path }) => (url.endsWith(path) ? { status: 500 } : {}));
    const { id } = await subscribe(t, { url });
    await tickAndWait();
    await eventually(
      () => at(url).length,
      (n) => expect(n).toBe(1),
    );
    await remove(id);
    await tickAndWait();
    expect(at(url)).toHaveLength(1);
    receiver.behave(() => ({}));
  });
});

describe('what a deleted webhook leaves', () => {
  const PATH = 'zephyr-quintessenz-place';
  const DESCRIPTION = 'Xylophon Brandung ticket system';
  const LATER = 'gewitter-hildegard-place';
  let id: number;
  let secrets: string[];
  let lines: readonly string[];
  const answers: string[] = [];
  const keyed = (key: string) => ({ headers: { 'Idempotency-Key': key } });
  const wanted = () => ({
    url: `${receiver.url}/${PATH}`,
    event_types: ['mail_domain.created'],
    description: DESCRIPTION,
  });
  const sealedForms = async () =>
    (
      await t.database.pool.query<{ sealed: string }>(
        "select encode(sealed, 'hex') as sealed from credentials where subject = $1",
        [`webhook:${id}`],
      )
    ).rows.map(({ sealed }) => sealed);
  const traces = (text: string) => tracesOf(t.database, text);
  const committedLines = async () => {
    const until = await headOf(t);
    const page = await t.gateway.context.log.readAll({
      ...{ after: 0n, until, filter: {}, limit: 100_000 },
    });
    return page.events.map(({ line }) => line);
  };

  beforeAll(async () => {
    const made = await t.send('POST', '/webhooks', { body: wanted(), ...keyed('make') });
    id = made.body.data.id;
    const path = `/webhooks/${id}`;
    // A busy life: deliveries, refusals, a ping, a rotation, a replay, each kept for a replay.
    await tickAndWait();
    await caughtUp(t, id);
    receiver.behave(() => ({ status: 500, body: 'no' }));
    await tickAndWait();
    receiver.behave(() => ({}));
    const rotated = await t.send('POST', `${path}/secret/rotate`, { body: {}, ...keyed('rotate') });
    secrets = [made.body.data.secret, rotated.body.data.secret];
    await t.send('POST', `${path}/ping`, keyed('ping'));
    await t.send('POST', `${path}/pause`, keyed('pause'));
    await t.send('POST', `${path}/replays`, {
      body: { from: 'earliest', reason: 'their disk' },
      ...keyed('replay'),
    });
    await t.send('PATCH', path, { body: { url: `${receiver.url}/${LATER}` } });
    await t.send('POST', `${path}/resume`, keyed('resume'));
  });

  it('the control: before, it stands where it must', async () => {
    const wantedPlaces = ['eventlog.event_personal', 'public.idempotency_keys'];
    expect(await traces(PATH)).toEqual(wantedPlaces);
    expect(await traces(LATER)).toEqual([...wantedPlaces, 'public.webhooks']);
    expect(await traces(DESCRIPTION)).toEqual([...wantedPlaces, 'public.webhooks']);
    expect(await sealedForms()).toHaveLength(2);
    for (const secret of secrets) expect(await traces(secret.slice(6, -1))).toEqual([]);
  });

  it('is neither URL nor description nor secret in any table', async () => {
    lines = await committedLines();
    const sealed = await sealedForms();
    expect((await remove(id)).reply.status).toBe(200);
    for (const text of [PATH, LATER, DESCRIPTION, ...sealed]) {
      expect([text, await traces(text)]).toEqual([text, []]);
    }
    expect(await sealedForms()).toEqual([]);
  });

  it('is its opaque lifecycle, byte for byte', async () => {
    expect((await committedLines()).slice(0, lines.length)).toEqual(lines);
    const reply = await t.send('GET', `/audit/logs?resource=webhook:${id}&limit=1000`);
    const found = reply.body.data;
    const types = found.map(({ type }: { type: string }) => type);
    expect(types).toEqual(
      expect.arrayContaining(['webhook.created', 'webhook.secret_rotated', 'webhook.deleted']),
    );
    for (const line of found) {
      const isTold = ['webhook.created', 'webhook.updated'].includes(line.type);
      const erased = isTold ? ['data.description', 'data.url'] : [];
      expect([line.type, line.erased.toSorted()]).toEqual([line.type, erased]);
    }
    for (const form of ['', '&form=evidence']) {
      const { text } = await t.send('GET', `/audit/logs?resource=webhook:${id}${form}`);
      expect(text).not.toMatch(/zephyr|gewitter|Xylophon/);
    }
  });

  it('is no answer that is kept: 410', async () => {
    const again: [string, string, object?][] = [
      ['make', '', wanted()],
      ['rotate', `/${id}/secret/rotate`, {}],
      ['pause', `/${id}/pause`],
      ['resume', `/${id}/resume`],
    ];
    for (const [key, path, body] of again) {
      const reply = await t.send('POST', `/webhooks${path}`, {
        ...keyed(key),
        ...(body && { body }),
      });
      answers.push(reply.text);
      expect([key, ...told(reply)]).toEqual([key, 410, 'erased']);
    }
    expect(answers.join()).not.toMatch(/zephyr|gewitter|Xylophon/);
  });

  describe('after the restore of a backup', () => {
    let restored: string;
    beforeAll(async () => {
      const event = (await allSince(t, 0n)).find(
        ({ type, resource }) => type === 'webhook.created' && resource.id === String(id),
      );
      const disclosure = Buffer.from(JSON.stringify(['salt', 'url', PATH])).toString('base64url');
      restored = `update eventlog.event_personal set identity = '"${disclosure}"'
        where event_id = '${event?.event_id}'`;
    });

    it('it is erased again before the gateway serves', async () => {
      const credential = `insert into credentials (subject, kind, lookup, sealed)
        values ('webhook:${id}', 'webhook', '0a1b2c3d', '\\x01')`;
      await asAdmin(t.database.url, `${restored}; ${credential}`);
      expect(await traces(PATH)).toEqual(['eventlog.event_personal']);
      t = await t.restart();
      expect([await traces(PATH), await sealedForms()]).toEqual([[], []]);
    });

    it('and so when of two databases the log’s alone came back', async () => {
      await asAdmin(t.database.url, restored);
      t = await t.restart();
      expect(await traces(PATH)).toEqual([]);
    });
  });
});

describe('the host of a deleted webhook', () => {
  const HOST = 'kolibri-windhose.invalid';

  it('stands nowhere, though errors and kept answers have named it', async () => {
    const { id } = await subscribe(t, { url: `http://${HOST}:8080/` });
    const ping = await t.send('POST', `/webhooks/${id}/ping`, {
      headers: { 'Idempotency-Key': 'ping-host' },
    });
    expect(ping.body.data).toMatchObject({ delivered: false, outcome: 'dns' });
    await tickAndWait();
    await eventually(
      () => look(t, id, '/deliveries'),
      (found) => expect(found).toHaveLength(1),
    );
    expect(await tracesOf(t.database, HOST)).toContain('public.webhooks');
    await remove(id);
    expect(await tracesOf(t.database, HOST)).toEqual([]);
  });
});

describe('DELETE /domains/{id}', () => {
  it('ends the subscriptions of the mail domain, and erases them; no others', async () => {
    const [own, other] = [await newDomain(), await newDomain()];
    const [url, otherUrl] = [`${aUrl()}-sturmvogel`, aUrl()];
    const bound = [
      await subscribe(t, { url, mail_domain: own.id, event_types: ['*'] }),
      await held({ url, mail_domain: own.id }),
    ];
    const kept = await subscribe(t, { url: otherUrl, mail_domain: other.id, event_types: ['*'] });
    await t.send('PATCH', `/domains/${own.id}`, { body: { quarantine_threshold: 3 } });
    await caughtUp(t, bound[0]!.id);
    expect(at(url)).toHaveLength(1);
    const before = await headOf(t);
    expect((await t.send('DELETE', `/domains/${own.id}`)).status).toBe(200);
    for (const { id } of bound) {
      await eventually(
        async () => (await t.send('GET', `/webhooks/${id}`)).status,
        (status) => expect(status).toBe(404),
      );
    }
    const ended = (await allSince(t, before)).filter(({ type }) => type === 'webhook.deleted');
    expect(ended.map(({ resource }) => Number(resource.id)).toSorted((a, b) => a - b)).toEqual(
      bound.map(({ id }) => id),
    );
    for (const { mail_domains } of ended) expect(mail_domains).toEqual([String(own.id)]);
    await eventually(
      () => tracesOf(t.database, 'sturmvogel'),
      (traces) => expect(traces).toEqual([]),
    );
    await eventually(
      async () =>
        (
          await t.database.pool.query('select 1 from credentials where subject = any($1)', [
            bound.map(({ id }) => `webhook:${id}`),
          ])
        ).rowCount,
      (n) => expect(n).toBe(0),
    );
    await t.send('PATCH', `/domains/${other.id}`, { body: { quarantine_threshold: 3 } });
    await caughtUp(t, kept.id);
    expect(at(otherUrl)).toHaveLength(1);
    const late = at(url).filter(({ payload }) => payload.type !== 'mail_domain.deleted');
    expect(late).toHaveLength(1);
  });

  it('also where the gateway died between the two', async () => {
    const own = await newDomain();
    const { id } = await held({ mail_domain: own.id });
    // As the deletion of the mail domain leaves it before the rest is done.
    const client = openClient({ url: t.database.url, role: null });
    await client.connect();
    await client.query('delete from mail_domains where id = $1', [own.id]);
    await client.end();
    const { sweepWebhooks } = await import('../../src/webhooks/upkeep.ts');
    const { context } = t.gateway;
    const deps = {
      pool: t.database.pool,
      log: context.log,
      clock: context.clock,
      nodeId: 'node-1',
    };
    await sweepWebhooks(deps);
    await eventually(
      async () => (await t.send('GET', `/webhooks/${id}`)).status,
      (status) => expect(status).toBe(404),
    );
    await sweepWebhooks(deps);
    const { rows } = await t.database.pool.query(
      'select 1 from webhook_cursors where webhook_id = $1',
      [id],
    );
    expect(rows).toEqual([]);
  });
});
