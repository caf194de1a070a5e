import { secretFingerprint } from '../../dist/secret-text.js';
import { insertPosition, now, openMeter, walSince } from './webhook-place.js';

const DELIVERED_MS_MAX = 180_000;
/** The rows' arm signs with one of its own. */
const SECRET = Buffer.alloc(32, 'the secret of the rows');
const OWN_SECRET = {
  secret: `whsec_${SECRET.toString('base64')}`,
  fingerprint: secretFingerprint(SECRET),
};

/** Every held message to each of some subscriptions, and what of it came. */
export async function deliverOurs(place, { subscribers }, count) {
  const { sender, receiver, ours } = place;
  const endpoints = place.endpoints.slice(0, subscribers);
  const ids = place.ids.slice(place.events - count);
  const start = await startAt(ours.db, ids[0], place.events === count);
  const webhooks = [];
  for (const { url } of endpoints) {
    webhooks.push(await sender.subscribe(url, { event_types: ['*'], start, enabled: false }));
  }
  const last = await positionOf(ours.db, ids.at(-1));
  await ours.db.query('checkpoint');
  await receiver.ask({ do: 'expect', endpoints: endpoints.map(({ endpoint }) => endpoint), ids });
  const pids = { sender: sender.pid, receiver: receiver.pid, database: ours.pid };
  const read = await openMeter(ours.db, pids);
  const begun = now();
  const waited = receiver.ask({ do: 'wait', ms: DELIVERED_MS_MAX });
  await sender.resume(webhooks);
  const { lastAt } = await waited;
  await sender.settled(webhooks, last);
  const used = await read(count * subscribers);
  const { rows } = await ours.db.query(
    // Of these events: what else happens in the log while they are delivered may still be under way.
    `select count(*) as attempts from webhook_attempts
     where webhook_id = any($1) and outcome = 'delivered' and event_id = any($2::uuid[])`,
    [webhooks.map(({ id }) => id), ids],
  );
  await sender.unsubscribe(webhooks);
  const checked = await checkAll(place, webhooks, 1);
  const rate = (count * subscribers) / ((lastAt - begun) / 1_000);
  return {
    ...{ rate, wholeRate: rate },
    ...{ ...used, appendWal: 0, ...checked },
    unrecorded: count * subscribers - checked.lost + checked.doubled - Number(rows[0].attempts),
  };
}

const startAt = async (db, id, isAll) =>
  isAll ? 'earliest' : { position: String(await positionOf(db, id)) };

async function positionOf(db, id) {
  const { rows } = await db.query('select position from eventlog.events where event_id = $1', [id]);
  return BigInt(rows[0].position);
}

/** The same by rows: made first, and measured apart; then delivered. */
export async function deliverRows(place, { variant, posting, subscribers }, count) {
  const { receiver, theirs, worker, endpoints } = place;
  const ids = place.ids.slice(place.events - count);
  const after = place.events - count;
  const deliveries = count * subscribers;
  await theirs.db.query('checkpoint');
  const lsn = await insertPosition(theirs.db);
  const making = now();
  await worker.ask({ do: 'fanOut', variant, after, until: place.events, subscribers });
  const madeMs = now() - making;
  const made = await walSince(theirs.db, lsn);
  await receiver.ask({ do: 'expect', endpoints: endpoints.map(({ endpoint }) => endpoint), ids });
  const targets = endpoints.map(({ url }) => ({ url, ...OWN_SECRET }));
  const pids = { sender: worker.pid, receiver: receiver.pid, database: theirs.pid };
  const read = await openMeter(theirs.db, pids);
  const begun = now();
  const waited = receiver.ask({ do: 'wait', ms: DELIVERED_MS_MAX });
  await Promise.all([waited, worker.ask({ do: 'deliver', variant, posting, targets })]);
  const { lastAt } = await waited;
  const used = await read(deliveries);
  const checked = await checkAll(place, targets, after + 1);
  return {
    rate: deliveries / ((lastAt - begun) / 1_000),
    wholeRate: deliveries / ((madeMs + lastAt - begun) / 1_000),
    ...{ ...used, appendWal: made.bytes / deliveries, ...checked },
    unrecorded: 0,
  };
}

/** What came to all of them; anything but duplicates is an error of the sender. */
async function checkAll(place, webhooks, first) {
  const all = { received: 0, doubled: 0, wrong: 0, bytes: 0, lost: 0, gaps: 0 };
  for (const [i, { secret }] of webhooks.entries()) {
    const { endpoint } = place.endpoints[i];
    const found = await place.receiver.ask({ do: 'check', endpoint, secret, first });
    for (const name of Object.keys(all)) all[name] += found[name];
  }
  place.payloadBytes ??= all.bytes / all.received;
  return all;
}
