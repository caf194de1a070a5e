import { hash, type KeyObject, randomUUID } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import tls from 'node:tls';
import type pg from 'pg';
import { type Clock, toTimestamp } from '../clock.ts';
import { saveAttempt } from '../db/webhook-attempts.ts';
import type { PingResult } from '../domain/webhook-delivery.ts';
import type { WebhookRow } from '../projections/webhooks.ts';
import { guardedConnector } from './connector.ts';
import { openSender, type Sent } from './send.ts';
import { signDelivery } from './signature.ts';
import { parseTarget, type TargetPolicy } from './target.ts';
import { judge } from './verdict.ts';

type Deps = Readonly<{
  pool: pg.Pool;
  clock: Clock;
  policy: TargetPolicy;
  timeoutMs?: number;
  ca?: readonly string[];
}>;

const PING_TYPE = 'webhook.ping';
const LOOKUP_MS = 3_000;

/** Posts one signed test message over a connection of its own, also to one that is paused or disabled. */
export async function ping(
  { pool, clock, policy, ...options }: Deps,
  row: WebhookRow,
  secrets: ReadonlyMap<string, KeyObject>,
): Promise<PingResult> {
  const target = parseTarget(row.url, policy);
  if (target.url === null) return { ...NOTHING, error: 'TARGET_REFUSED' };
  const now = clock.now();
  const id = `ping_${randomUUID()}`;
  const body = JSON.stringify({
    type: PING_TYPE,
    timestamp: toTimestamp(now),
    id,
    data: { webhook_id: String(row.id) },
  });
  const living = row.secrets.filter(({ until }) => until === null || Date.parse(until) > +now);
  const keys = living.flatMap(({ fingerprint }) => secrets.get(fingerprint) ?? []);
  if (keys.length === 0) return { ...NOTHING, error: 'SECRET_MISSING' };
  const timestampSeconds = Math.floor(+now / 1_000);
  const addresses = await addressesOf(target.url.hostname);
  let seen: PingResult['tls'] = null;
  const sender = openSender({
    policy,
    ...options,
    connectorOf: (addressPolicy, connectorOptions) => {
      const dial = guardedConnector(addressPolicy, connectorOptions);
      return (to, callback) =>
        dial(to, (...result) => {
          seen = tlsOf(result[1]);
          callback(...result);
        });
    },
  });
  let sent: Sent;
  try {
    sent = await sender.send({
      url: target.url,
      body,
      headers: {
        'content-type': 'application/json',
        'webhook-id': id,
        'webhook-timestamp': String(timestampSeconds),
        'webhook-signature': signDelivery({ id, timestampSeconds, body, secrets: keys }),
      },
    });
  } finally {
    await sender.close();
  }
  const { outcome, event } = judge(sent.reply, clock.nowMs());
  await saveAttempt(pool, row.id, {
    position: 0n,
    startedAt: now,
    eventId: id.slice('ping_'.length),
    type: PING_TYPE,
    kind: 'ping',
    tries: 1,
    ...{ outcome, status: sent.reply.status, ms: sent.ms },
    bodySha256: hash('sha256', body, 'buffer'),
    signedBy: living.map(({ fingerprint }) => fingerprint).join(' '),
    ...{ peer: sent.peer, replayId: null, error: sent.error, excerpt: sent.excerpt },
  });
  return {
    delivered: event === 'delivered',
    outcome,
    status: sent.reply.status,
    ms: sent.ms,
    addresses,
    connectedTo: sent.peer,
    tls: seen,
    error: sent.error,
    excerpt: sent.excerpt,
  };
}

const NOTHING: PingResult = {
  delivered: false,
  outcome: 'blocked',
  status: null,
  ms: 0,
  addresses: [],
  connectedTo: null,
  tls: null,
  error: null,
  excerpt: null,
};

async function addressesOf(host: string): Promise<readonly string[]> {
  const late = new Promise<[]>((resolve) => setTimeout(resolve, LOOKUP_MS, []).unref());
  const found = lookup(host.replace(/^\[|\]$/g, ''), { all: true }).catch(() => []);
  return (await Promise.race([found, late])).map(({ address }) => address);
}

function tlsOf(socket: unknown): PingResult['tls'] {
  if (!(socket instanceof tls.TLSSocket)) return null;
  // An empty object for a peer without a certificate.
  const { valid_to: validTo } = socket.getPeerCertificate() as Partial<tls.PeerCertificate>;
  return {
    protocol: socket.getProtocol() ?? '',
    cipher: socket.getCipher().name,
    validTo: validTo === undefined ? null : new Date(validTo).toISOString(),
  };
}
