import { renderPayload } from '../projections/webhook-payload.ts';
import type { Item, Lane } from './lane.ts';
import { type Begun, record } from './record.ts';
import type { DeliveryDeps, Running } from './running.ts';
import type { Sent } from './send.ts';
import type { Settings } from './settings.ts';
import { signDelivery } from './signature.ts';

const USER_AGENT = 'MailGuard-Webhooks/1';

/**
 * Begins one try, with the URL and the secrets as they are now, and records what comes of it before `done` is
 * called. False when there is no slot: then nothing was begun.
 */
export function attempt(s: Running, deps: DeliveryDeps, item: Item, done: () => void): boolean {
  const { target } = s.settings;
  const host = target.url?.host ?? '';
  const isFirst = s.underWay.all === 0;
  const begun = toBegun(s, deps, item);
  const giveBack = deps.slots.take(host, { isFirst, wake: () => s.loop.waker.wake() });
  if (giveBack === null) return false;
  const { lane } = item;
  begin(s, item);
  const sending =
    target.url === null
      ? blocked('TARGET_REFUSED')
      : send(s, deps, { item, begun, url: target.url });
  sending
    .then((sent) => {
      end(s, lane);
      giveBack();
      const isCut = s.loop.cut.signal.aborted || !deps.holdsLease();
      record(s, deps, item, { begun, sent, isCut });
      done();
    })
    .catch((error: unknown) => {
      deps.logger.error({ err: error, webhook: s.id }, 'a delivery failed on a bug');
    });
  return true;
}

function begin({ underWay }: Running, item: Item): void {
  item.posts += 1;
  item.state = 'sending';
  underWay.all += 1;
  if (item.lane === null) underWay.retries += 1;
  else item.lane.sending += 1;
}

/** `lane` is where the event stood when its try began. */
function end({ underWay }: Running, lane: Lane | null): void {
  underWay.all -= 1;
  if (lane === null) underWay.retries -= 1;
  else lane.sending -= 1;
}

function toBegun(s: Running, deps: DeliveryDeps, item: Item): Begun {
  const { event, sequence, epoch, tries, lane, replayId } = item;
  if (event === null) throw new Error('an event is sent before it was read');
  const mailDomain = s.settings.row.mailDomain === null ? null : String(s.settings.row.mailDomain);
  const isProbe = s.endpoint.breaker.state === 'open';
  const isRetry = lane === null || tries > 0;
  const kind = replayId !== null ? 'replay' : isProbe ? 'probe' : isRetry ? 'retry' : 'live';
  const now = deps.clock.now();
  return {
    kind,
    startedAt: now,
    url: s.settings.row.url,
    body: renderPayload(event, { sequence, epoch, mailDomain }),
    signedBy: livingSecrets(s.settings, now),
  };
}

/** Fingerprints of the secrets that sign now, the newest first. */
const livingSecrets = ({ row, secrets }: Settings, now: Date): readonly string[] =>
  row.secrets
    .filter(({ until }) => until === null || Date.parse(until) > now.getTime())
    .map(({ fingerprint }) => fingerprint)
    .filter((fingerprint) => secrets.has(fingerprint));

function send(
  s: Running,
  deps: DeliveryDeps,
  { item, begun, url }: Readonly<{ item: Item; begun: Begun; url: URL }>,
): Promise<Sent> {
  const { eventId: id, replayId } = item;
  const { body, startedAt } = begun;
  const timestampSeconds = Math.floor(startedAt.getTime() / 1_000);
  const secrets = begun.signedBy.flatMap((one) => s.settings.secrets.get(one) ?? []);
  if (secrets.length === 0) return blocked('SECRET_MISSING');
  return deps.sender.send({
    url,
    body,
    signal: s.loop.cut.signal,
    mayBegin: deps.holdsLease,
    headers: {
      'content-type': 'application/json',
      'user-agent': USER_AGENT,
      'webhook-id': id,
      'webhook-timestamp': String(timestampSeconds),
      'webhook-signature': signDelivery({ id, timestampSeconds, body, secrets }),
      ...(replayId === null ? {} : { 'webhook-replay': String(replayId) }),
    },
  });
}

const blocked = async (why: string): Promise<Sent> => ({
  reply: { status: null, failure: 'blocked' },
  ms: 0,
  peer: null,
  error: why,
  excerpt: null,
});
