import { pause } from './run.js';
import { percentile } from './stats.js';
import { SIGNAL, signalEvent } from './webhook-events.js';
import { insertPosition, now, walSince } from './webhook-place.js';

const WAIT_MS_MAX = 60_000;

/** Subscriptions that are paused while events are appended; they are to cost an append nothing. */
export const PAUSED = [0, 4, 20];
const APPENDED = 4_000;
const APPENDED_AT_ONCE = 20;

/** One event at a time, so far apart that nothing of the one before is left, and in step with no timer. */
export const SINGLE = 100;
export const SINGLE_APART_MS = { min: 60, max: 140 };

/** Events at a steady rate, each at a moment of its own for the same reason. */
export const STEADY_PER_S = 100;
export const STEADY_S = 8;

/** WAL bytes of an appended event beside so many paused subscriptions. */
export async function appendBesidePaused(place, round) {
  const { sender, ours, endpoints } = place;
  const found = {};
  await ours.db.query('checkpoint');
  // Not counted: pages that are changed for the first time after the checkpoint.
  await appendSignals(place, APPENDED / 2);
  // The most first every other time: nothing must look as if it were the number.
  for (const count of round % 2 === 0 ? PAUSED : [...PAUSED].reverse()) {
    const webhooks = [];
    for (let i = 0; i < count; i += 1) {
      webhooks.push(
        await sender.subscribe(endpoints[0].url, {
          ...{ event_types: ['*'], start: 'now', enabled: false },
        }),
      );
    }
    await pause(200);
    const lsn = await insertPosition(ours.db);
    await appendSignals(place, APPENDED);
    const { bytes, images } = await walSince(ours.db, lsn);
    found[count] = { wal: (bytes - images) / APPENDED, images: images / APPENDED };
    await sender.unsubscribe(webhooks);
  }
  return found;
}

/** One command after the other, so that as many events share a transaction each time. */
async function appendSignals(place, count) {
  for (let done = 0; done < count; done += APPENDED_AT_ONCE) {
    const events = Array.from({ length: APPENDED_AT_ONCE }, () => signalEvent(nextNumber(place)));
    await append(place, events);
  }
}

const nextNumber = (place) => (place.appended += 1);

async function append(place, events) {
  const stream = `host-${place.appended}`;
  const { kind } = await place.ours.log.append({ stream, expected: 'none', events });
  if (kind !== 'appended') throw new Error(`not appended: ${kind}`);
}

/**
 * Mail domains that are made one by one through the API, while nothing else happens. `whole` is from before the
 * request, so with the request's own work; `after` is from its answer, which may be later than the arrival.
 */
export async function timeSingleEvents({ sender, receiver, endpoints }, round) {
  const [{ url, endpoint }] = endpoints;
  const wishes = { event_types: ['mail_domain.created'], start: 'now' };
  const webhook = await sender.subscribe(url, wishes);
  await receiver.ask({ do: 'expect', endpoints: [endpoint], count: SINGLE });
  const asked = [];
  for (let n = 0; n < SINGLE; n += 1) {
    await pause(between(SINGLE_APART_MS));
    const before = now();
    await sender.api.call('POST', '/domains', { name: `r${round}n${n}.single.example` });
    asked.push({ before, after: now() });
  }
  await receiver.ask({ do: 'wait', ms: WAIT_MS_MAX });
  const arrivals = await receiver.ask({ do: 'arrivals', endpoint });
  await sender.unsubscribe([webhook]);
  if (arrivals.length !== SINGLE) throw new Error(`${arrivals.length} of ${SINGLE} came`);
  const whole = sorted(arrivals.map(([, at], n) => at - asked[n].before));
  const after = sorted(arrivals.map(([, at], n) => at - asked[n].after));
  const answer = sorted(asked.map((one) => one.after - one.before));
  return {
    ...{ p50: percentile(whole, 0.5), p99: percentile(whole, 0.99) },
    ...{ answerP50: percentile(answer, 0.5), afterP50: percentile(after, 0.5) },
  };
}

/** Events at a steady rate to four subscriptions; how long they took to the first, whatever the others do. */
export async function timeSteadily(place, { kinds }) {
  const { sender, receiver } = place;
  const targets = place[kinds];
  const webhooks = [];
  for (const { url } of targets) {
    webhooks.push(await sender.subscribe(url, { event_types: [SIGNAL], start: 'now' }));
  }
  const [{ endpoint }] = targets;
  const count = STEADY_PER_S * STEADY_S;
  await receiver.ask({ do: 'expect', endpoints: [endpoint], count });
  const begun = now();
  const appended = new Map();
  const appending = [];
  for (let n = 0; n < count; n += 1) {
    const due = begun + ((n + Math.random()) * 1_000) / STEADY_PER_S;
    await pause(Math.max(0, due - now()));
    const event = signalEvent(nextNumber(place));
    appended.set(event.eventId, now());
    appending.push(append(place, [event]));
  }
  await Promise.all(appending);
  await receiver.ask({ do: 'wait', ms: WAIT_MS_MAX });
  const arrivals = await receiver.ask({ do: 'arrivals', endpoint });
  await receiver.ask({ do: 'hangUp' });
  await sender.unsubscribe(webhooks);
  const times = sorted(arrivals.map(([id, at]) => at - appended.get(id)));
  return { p50: percentile(times, 0.5), p99: percentile(times, 0.99), slowest: times.at(-1) };
}

const between = ({ min, max }) => min + Math.random() * (max - min);
const sorted = (values) => [...values].sort((a, b) => a - b);
