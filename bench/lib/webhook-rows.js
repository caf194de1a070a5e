import { createHash, createSecretKey } from 'node:crypto';
import { Agent } from 'undici';
import { APP_ROLE, openPool } from '../../dist/db/pool.js';
import { ATTEMPT_COLUMNS, attemptArrays, keepAttemptDays } from '../../dist/db/webhook-attempts.js';
import { prepareEvent, renderPayload } from '../../dist/projections/webhook-payload.js';
import { addressPolicy } from '../../dist/webhooks/addresses.js';
import { openSender } from '../../dist/webhooks/send.js';
import { signDelivery } from '../../dist/webhooks/signature.js';
import { connect } from './database.js';
import { serveOrders } from './worker.js';

/**
 * What the peers store, as well as it can be done here: for each event and subscriber a row, made a hundred events
 * in a transaction; a hundred rows leased at once, ahead of need; posted over kept connections, as many at once
 * as ours; and ended together with their attempts, up to 200 in a statement. Body, headers and signature
 * are made by the gateway's own functions, the event is read and prepared once for all subscribers, and the
 * attempts go into the gateway's own table. It knows no failed delivery, no order, no shutdown and no second process.
 *
 * Two ways to store. `kept`: the row stays and tells what became of the delivery, as with Svix, Convoy, Hook0 and
 * Outpost. `queue`: the row is deleted with its end, as in a job queue, so that it needs one index instead of two.
 *
 * Two ways to post. `bare`: undici alone, whose timeouts are between bytes, to whatever address. `guarded`: the
 * gateway's own sender, with its guard against addresses and its deadline, so that nothing but what is
 * stored and how the work is handed out differs from ours.
 */
const VARIANTS = {
  kept: {
    table: `create table deliveries_kept (
      id bigint generated always as identity primary key, subscriber int not null, position bigint not null,
      state smallint not null default 0, tries smallint not null default 0,
      leased_until timestamptz not null default '-infinity') with (fillfactor = 70)`,
    // By its own order, so that nothing else can be taken for it.
    index: 'create index on deliveries_kept (position, subscriber) where state = 0',
    pending: 'state = 0 and leased_until < now() order by position, subscriber',
    end: 'update deliveries_kept set state = 1 where id = any ($1)',
  },
  queue: {
    table: `create table deliveries_queue (
      id bigint generated always as identity primary key, subscriber int not null, position bigint not null,
      tries smallint not null default 0,
      leased_until timestamptz not null default '-infinity') with (fillfactor = 70)`,
    index: null,
    pending: 'leased_until < now() order by id',
    end: 'delete from deliveries_queue where id = any ($1)',
  },
};

const IN_FLIGHT = 64;
const LEASED = 100;
/** What is put down together, and at the latest after this time: as the gateway has it. */
const ENDED_MAX = 200;
const FLUSH_MS = 25;
const FAN_OUT_EVENTS = 100;
const TIMEOUT_MS = 15_000;
/** Events that are kept for the other subscribers' rows. */
const PREPARED_MAX = 2_000;

let pool = null;
const guarded = openSender({
  policy: { addresses: addressPolicy(['127.0.0.0/8']), allowHttp: true },
  timeoutMs: TIMEOUT_MS,
});
const agent = new Agent({
  connections: IN_FLIGHT,
  pipelining: 1,
  keepAliveTimeout: 4_000,
  headersTimeout: TIMEOUT_MS,
  bodyTimeout: TIMEOUT_MS,
});

async function open({ url }) {
  const owner = await connect(url);
  for (const [name, { table, index }] of Object.entries(VARIANTS)) {
    await owner.query(table);
    if (index !== null) await owner.query(index);
    await owner.query(`grant all on deliveries_${name} to ${APP_ROLE}`);
  }
  // Tables that are full and empty by turns: a plan that was made for the one must not hurt at the other.
  for (const way of ['seqscan', 'sort']) {
    await owner.query(`alter database ${owner.database} set enable_${way} = off`);
  }
  await owner.end();
  pool = openPool({ url, size: 8, role: APP_ROLE });
  await keepAttemptDays(pool, new Date());
}

/** The rows of the events behind a position up to another, a transaction for each hundred events. */
async function fanOut({ variant, after, until, subscribers }) {
  for (let from = after; from < until; from += FAN_OUT_EVENTS) {
    await pool.query(
      `insert into deliveries_${variant} (subscriber, position)
       select s, e.position from eventlog.events e, generate_series(0, $3::int - 1) s
       where e.position > $1 and e.position <= $2 order by e.position, s`,
      [from, Math.min(from + FAN_OUT_EVENTS, until), subscribers],
    );
  }
}

const columns = ATTEMPT_COLUMNS.map(([name]) => name);

/** Both statements of one variant, prepared by name as the gateway's are. */
function statementsOf(variant) {
  const { pending, end } = VARIANTS[variant];
  return {
    lease: {
      name: `lease_${variant}`,
      text: `update deliveries_${variant} set leased_until = now() + interval '30 seconds', tries = tries + 1
        where id = any (array (select id from deliveries_${variant} where ${pending}
                               limit ${LEASED} for update skip locked))
        returning id, subscriber, position`,
    },
    end: {
      name: `end_${variant}`,
      text: `with ended as (${end})
        insert into webhook_attempts (webhook_id, ${columns.join(', ')})
        select * from unnest($2::bigint[],
          ${ATTEMPT_COLUMNS.map(([, type], i) => `$${i + 3}::${type}[]`).join(', ')})`,
    },
  };
}

/** Everything that is pending, from the first lease until the last end is in the database. */
function deliver({ variant, posting, targets: given }) {
  const statements = statementsOf(variant);
  const targets = given.map(toTarget);
  const send = SENDERS[posting];
  const prepared = new Map();
  const leased = [];
  const work = { inFlight: 0, isLeasing: false, isEmpty: false, isFlushing: false, timer: null };
  let ended = [];
  let deliveries = 0;

  return new Promise((resolve, reject) => {
    function go() {
      while (work.inFlight < IN_FLIGHT && leased.length > 0) void begin(leased.shift());
      if (leased.length < LEASED && !work.isLeasing && !work.isEmpty) lease().catch(reject);
      if (ended.length >= ENDED_MAX) flush().catch(reject);
      const isOver = work.isEmpty && work.inFlight === 0 && leased.length === 0;
      if (isOver && ended.length === 0 && !work.isFlushing) resolve({ deliveries });
    }

    async function lease() {
      work.isLeasing = true;
      const { rows } = await pool.query(statements.lease);
      // An update returns its rows as it found them.
      rows.sort((a, b) => Number(a.id) - Number(b.id));
      await prepareAll(prepared, rows);
      for (const row of rows) leased.push({ ...row, event: prepared.get(row.position) });
      work.isEmpty = rows.length === 0;
      work.isLeasing = false;
      go();
    }

    async function begin(row) {
      work.inFlight += 1;
      try {
        ended.push(await post(row, targets[row.subscriber], send));
        work.timer ??= setTimeout(() => flush().catch(reject), FLUSH_MS);
        deliveries += 1;
      } catch (error) {
        reject(error);
      }
      work.inFlight -= 1;
      go();
    }

    async function flush() {
      // One that has fired is set anew behind the flush under way, if anything has come by then.
      clearTimeout(work.timer);
      work.timer = null;
      if (work.isFlushing || ended.length === 0) return;
      work.isFlushing = true;
      const batch = ended.splice(0);
      await pool.query({
        ...statements.end,
        values: [
          batch.map(({ id }) => id),
          batch.map(({ subscriber }) => subscriber + 1),
          ...attemptArrays(batch.map(({ attempt }) => attempt)),
        ],
      });
      work.isFlushing = false;
      if (ended.length > 0) work.timer ??= setTimeout(() => flush().catch(reject), FLUSH_MS);
      go();
    }

    go();
  });
}

async function prepareAll(prepared, rows) {
  const missing = [...new Set(rows.map(({ position }) => position))].filter(
    (position) => !prepared.has(position),
  );
  if (missing.length === 0) return;
  const found = await pool.query({
    name: 'lines',
    text: 'select position, line from eventlog.events where position = any($1::bigint[])',
    values: [missing],
  });
  for (const { position, line } of found.rows) {
    prepared.set(position, prepareEvent({ position: BigInt(position), line }));
  }
  for (const old of prepared.keys()) {
    if (prepared.size <= PREPARED_MAX) break;
    prepared.delete(old);
  }
}

function toTarget({ url, secret, fingerprint }) {
  const key = Buffer.from(secret.slice('whsec_'.length), 'base64');
  return { url: new URL(url), fingerprint, secrets: [createSecretKey(key)] };
}

const SENDERS = {
  guarded: async (sending) => {
    const { reply, error } = await guarded.send(sending);
    if (reply.status === null) throw new Error(error);
    return reply.status;
  },
  bare: async ({ url, headers, body }) => {
    const { origin, pathname: path } = url;
    const { statusCode, body: answer } = await agent.request({
      ...{ origin, path, method: 'POST', headers, body },
    });
    await answer.dump();
    return statusCode;
  },
};

/** The position stands for the sequence, which such a row does not know: a body of as many bytes for nothing. */
async function post({ id, subscriber, position, event }, { url, secrets, fingerprint }, send) {
  const startedAt = new Date();
  const begun = performance.now();
  const body = renderPayload(event, { sequence: Number(position), epoch: 1, mailDomain: null });
  const timestampSeconds = Math.floor(startedAt.getTime() / 1_000);
  const status = await send({
    url,
    headers: {
      'content-type': 'application/json',
      'user-agent': 'MailGuard-Webhooks/1',
      'webhook-id': event.eventId,
      'webhook-timestamp': String(timestampSeconds),
      'webhook-signature': signDelivery({ id: event.eventId, timestampSeconds, body, secrets }),
    },
    body,
  });
  if (status >= 300) throw new Error(`answered ${status}`);
  const attempt = {
    position: event.position,
    startedAt,
    eventId: event.eventId,
    type: event.type,
    kind: 'live',
    tries: 1,
    outcome: 'delivered',
    status,
    ms: Math.round(performance.now() - begun),
    bodySha256: createHash('sha256').update(body).digest(),
    signedBy: fingerprint,
    peer: '127.0.0.1',
    replayId: null,
    error: null,
    excerpt: null,
  };
  return { id, subscriber, attempt };
}

serveOrders({ open, fanOut, deliver });
