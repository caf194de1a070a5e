import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { MessageStore } from '../domain/message-store.ts';
import type { TransferResult } from '../domain/quarantine-language.ts';
import { outstanding } from '../domain/quarantine-transfers.ts';
import type { QuarantinedMessage } from '../domain/quarantined-message.ts';
import { findBackends } from '../projections/mail-domains.ts';
import { buildBounce } from './bounce.ts';
import { type Addressed, GONE, groupsOf, type Outlet, type Tried } from './outlet.ts';
import type { OpenedHistory } from './quarantine-history.ts';
import { type DeliveryResult, deliver, type SmtpTimeouts } from './smtp.ts';
import { parseSmtpTarget } from './smtp-target.ts';
import { verified } from './verified-bytes.ts';

export type SmtpOutletDeps = Readonly<{
  pool: pg.Pool;
  store: MessageStore;
  clock: Clock;
  logger: Logger;
  nodeId: string;
  /** Where bounces go, as `host:port`. */
  relay: string | null;
  smtp: Readonly<{ timeouts?: SmtpTimeouts }>;
}>;

/** One SMTP transaction per mail domain to its backend servers, and bounces through a relay. */
export const createSmtpOutlet = (deps: SmtpOutletDeps): Outlet => ({
  release: (...message) => release(deps, ...message),
  reject: (history, ...rest) => bounce(deps, history, ...rest).catch(unbounced(deps, history)),
  async discard({ id }) {
    // What is gone was removed by a try that a crash cut off.
    await deps.store.remove(id);
    return null;
  },
});

async function release(
  deps: SmtpOutletDeps,
  { id, disclosed, sha256 }: OpenedHistory,
  started: QuarantinedMessage,
  signal: AbortSignal,
): Promise<Tried> {
  const wanted = outstanding(started);
  const groups = groupsOf(disclosed, wanted);
  if (disclosed.sender === null || groups === null) return GONE;
  // What is there and cannot be read fails below, where that puts the try off.
  const opened = await deps.store.open(id).catch(() => undefined);
  if (opened === null) return GONE;
  if (opened !== undefined) await close(opened.bytes);
  const tried = await Promise.all(
    groups.map(async ({ mailDomain, recipients }) => {
      const addresses = recipients.map(({ address }) => address);
      const send = async () => {
        const backends = mailDomain === null ? [] : await findBackends(deps.pool, mailDomain);
        if (backends.length === 0) return null;
        return await deliver(
          backends.map(parseSmtpTarget),
          { from: disclosed.sender ?? '', to: addresses },
          () => bytesOf(deps, id, sha256),
          { ...deps.smtp, name: deps.nodeId, prepend: traceOf(deps, id), signal },
        );
      };
      // Whatever goes wrong here must not hide what another mail domain's server has taken.
      const sent = await send().catch((error: unknown) => notSent(deps, { id, addresses, error }));
      if (sent === null) return recipients.map((r) => unroutable(r));
      return recipients.map((r, index) => toResult(r, sent.recipients[index]));
    }),
  );
  const all = tried.flat().sort((a, b) => a.result.recipient - b.result.recipient);
  const hasRoute = all.some(({ reply }) => reply !== NO_ROUTE);
  return {
    results: all.map(({ result }) => result),
    replies: all.map(({ address, server, reply }) => ({ recipient: address, server, reply })),
    cause: hasRoute ? null : 'no_route',
  };
}

async function bounce(
  deps: SmtpOutletDeps,
  { id, disclosed, reason, arrivedAt }: OpenedHistory,
  started: QuarantinedMessage,
  signal: AbortSignal,
): Promise<Tried> {
  const groups = groupsOf(disclosed, outstanding(started));
  const { relay } = deps;
  if (!disclosed.sender || groups === null) return GONE;
  const opened = await deps.store.open(id);
  if (opened === null) return GONE;
  const head = await readHead(opened.bytes);
  if (relay === null) return { results: [], replies: [], cause: 'no_route' };
  const notice = buildBounce({
    reportingMta: deps.nodeId,
    sender: disclosed.sender,
    recipients: groups.flatMap(({ recipients }) => recipients.map(({ address }) => address)),
    reason,
    messageId: id,
    arrivedAt: new Date(arrivedAt),
    head,
    at: deps.clock.now(),
    boundary: `mailguard-${randomUUID()}`,
  });
  const sent = await deliver(
    [parseSmtpTarget(relay)],
    { from: '', to: [disclosed.sender] },
    async () => chunkOf(notice),
    { ...deps.smtp, name: deps.nodeId, signal },
  ).catch((error: unknown) => notSent(deps, { id, addresses: [disclosed.sender ?? ''], error }));
  const { result, server, reply } = toResult(
    { recipient: 0, address: disclosed.sender },
    sent.recipients[0],
  );
  return {
    results: [result],
    replies: [{ recipient: disclosed.sender, server, reply }],
    cause: null,
  };
}

const NO_ROUTE = 'no backend server';

/** It throws only while no server has the whole message, so nobody has got it. */
function notSent(
  { logger }: SmtpOutletDeps,
  { id, addresses, error }: Readonly<{ id: string; addresses: readonly string[]; error: unknown }>,
): DeliveryResult {
  logger.warn({ err: error, message_id: id }, 'a message could not be sent');
  const reply = 'not sent: this server stopped, or could not read the message';
  const said = { outcome: 'deferred', code: null, server: null, reply } as const;
  return { recipients: addresses.map((address) => ({ address, ...said })) };
}

/** A bounce is put off, too, when the message cannot be read. */
const unbounced =
  (deps: SmtpOutletDeps, { id, disclosed: { sender } }: OpenedHistory) =>
  (error: unknown): Tried => {
    const to = { recipient: 0, address: sender ?? '' };
    const sent = notSent(deps, { id, addresses: [to.address], error });
    const { result, server, reply } = toResult(to, sent.recipients[0]);
    return { results: [result], replies: [{ recipient: to.address, server, reply }], cause: null };
  };

type Replied = Addressed &
  Readonly<{ result: TransferResult; server: string | null; reply: string }>;

const unroutable = (to: Addressed): Replied => ({
  ...to,
  result: { recipient: to.recipient, outcome: 'refused', code: null },
  server: null,
  reply: NO_ROUTE,
});

function toResult(to: Addressed, sent: DeliveryResult['recipients'][number] | undefined): Replied {
  if (sent === undefined) throw new Error('a recipient without a result');
  const { outcome, code, server, reply } = sent;
  return { ...to, result: { recipient: to.recipient, outcome, code }, server, reply };
}

/** Our own trace (RFC 5321 section 4.4): also how two copies of one message are told to be one. */
function traceOf({ nodeId, clock }: SmtpOutletDeps, id: string): string {
  const date = clock.now().toUTCString().replace('GMT', '+0000');
  return `Received: from quarantine by ${nodeId} (MailGuard) with SMTP id ${id};\r\n\t${date}\r\n`;
}

/** The bytes as they arrived: what has changed since is an error before its end, so that nobody gets it. */
async function bytesOf(
  { store }: SmtpOutletDeps,
  id: string,
  sha256: string,
): Promise<AsyncIterable<Uint8Array>> {
  const opened = await store.open(id);
  if (opened === null) throw new Error(`the bytes of ${id} went away`);
  return verified(opened.bytes, sha256);
}

async function* chunkOf(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}

const close = (bytes: AsyncIterable<Uint8Array>) => bytes[Symbol.asyncIterator]().return?.();

const HEAD_BYTES = 65_536;

async function readHead(bytes: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of bytes) {
    chunks.push(chunk);
    length += chunk.length;
    if (length >= HEAD_BYTES) break;
  }
  return Buffer.concat(chunks).subarray(0, HEAD_BYTES);
}
