import { randomUUID } from 'node:crypto';
import { toTimestamp } from '../clock.ts';
import { DomainError } from '../domain/errors.ts';
import type { QuarantineCommand, TransferResult } from '../domain/quarantine-language.ts';
import {
  outstanding,
  type QuarantinedMessage,
  quarantinedMessage,
} from '../domain/quarantined-message.ts';
import { handleCommand, newCommandId } from '../eventlog/handle-command.ts';
import { isConnectionError } from '../eventlog/unavailable.ts';
import { findBackends } from '../projections/mail-domains.ts';
import type { DisclosedMessage } from '../projections/quarantine.ts';
import { buildBounce } from './bounce.ts';
import { makeWishedFilters } from './quarantine-filters.ts';
import { metaAfter, type OpenedHistory, readHistory } from './quarantine-history.ts';
import type { Slots, WorkerDeps } from './quarantine-worker.ts';
import { type DeliveryResult, deliver } from './smtp.ts';
import { parseSmtpTarget } from './smtp-target.ts';
import { verified } from './verified-bytes.ts';

const FINISH_RETRY_MS = 500;

type Transfer = Readonly<{ signal: AbortSignal; inSlot: Slots }>;
type Replies = Extract<QuarantineCommand, { type: 'FinishTransfer' }>['replies'];
type Tried = Readonly<{
  results: readonly TransferResult[];
  replies: Replies;
  cause: Extract<QuarantineCommand, { type: 'FinishTransfer' }>['cause'];
}>;

/** Releases a message, or bounces it: whichever is asked for. Does nothing when neither is, or none is due. */
export async function transfer(deps: WorkerDeps, id: string, how: Transfer): Promise<void> {
  const history = await readHistory(deps.log, id);
  const { state } = history.state;
  if (state !== 'release_requested' && state !== 'reject_requested') return;
  // Whoever asks again is told how it stands: tries that come early would use up those that come late.
  if (history.retryAt !== null && Date.parse(history.retryAt) > deps.clock.nowMs()) return;
  await makeWishedFilters(deps, history);
  const route = state === 'reject_requested' ? 'relay' : history.mailDomains.join();
  await how.inSlot(route, async () => {
    if (how.signal.aborted) return;
    const started = await tell(deps, history, { type: 'StartTransfer' });
    const tried =
      state === 'reject_requested'
        ? await bounce(deps, history, started, how.signal).catch(unbounced(deps, history))
        : await release(deps, history, started, how.signal);
    const finish = { type: 'FinishTransfer', attempt: started.attempt, ...tried } as const;
    await untilRecorded(how.signal, () =>
      tell(deps, history, { ...finish, now: toTimestamp(deps.clock.now()) }),
    );
    if (tried.cause === 'content_gone') await tell(deps, history, { type: 'Vanish' });
    if (state === 'reject_requested') await removeWhenRejected(deps, history);
  });
}

async function release(
  deps: WorkerDeps,
  { id, disclosed, sha256 }: OpenedHistory,
  started: QuarantinedMessage,
  signal: AbortSignal,
): Promise<Tried> {
  const wanted = outstanding(started);
  const groups = groupsOf(disclosed, wanted);
  // What is there and cannot be read fails below, where that puts the try off.
  const opened = await deps.store.open(id).catch(() => undefined);
  if (opened === null || disclosed.sender === null || groups === null) return gone;
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
  deps: WorkerDeps,
  { id, disclosed, reason, arrivedAt }: OpenedHistory,
  started: QuarantinedMessage,
  signal: AbortSignal,
): Promise<Tried> {
  const groups = groupsOf(disclosed, outstanding(started));
  const { relay } = deps;
  const opened = await deps.store.open(id);
  if (opened === null || !disclosed.sender || groups === null) return gone;
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

/** Removes the bytes of a message whose discard is asked for, and records it. */
export async function discard(deps: WorkerDeps, id: string): Promise<void> {
  const history = await readHistory(deps.log, id);
  if (history.state.state !== 'discard_requested') return;
  await makeWishedFilters(deps, history);
  await deps.store.remove(id);
  await tell(deps, history, { type: 'FinishDiscard' });
}

/** Teaches rspamd what was asked for, one request after another, and records what came of each. */
export async function retrain(deps: WorkerDeps, id: string, signal: AbortSignal): Promise<void> {
  for (;;) {
    const history = await readHistory(deps.log, id);
    const [open] = history.openTraining;
    if (open === undefined || signal.aborted) return;
    const { asked, class: kind } = open;
    const opened = deps.rspamd === null ? null : await deps.store.open(id);
    const learned =
      deps.rspamd === null || opened === null
        ? ({ outcome: 'unavailable', status: null } as const)
        : await deps.rspamd.learn(kind, opened.bytes, opened.sizeBytes);
    const { outcome, status } = learned;
    await untilRecorded(signal, () =>
      tell(deps, { ...history, asked }, { type: 'FinishRetrain', class: kind, outcome, status }),
    );
  }
}

async function removeWhenRejected(deps: WorkerDeps, { id }: OpenedHistory): Promise<void> {
  const { state } = await readHistory(deps.log, id);
  if (state.state === 'rejected') await deps.store.remove(id);
}

/** What was done must be recorded however long that takes; only stopping leaves it to the next start. */
async function untilRecorded(signal: AbortSignal, record: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await record();
      return;
    } catch (error) {
      const isPassing =
        isConnectionError(error) || (error instanceof DomainError && error.code === 'unavailable');
      if (!isPassing || signal.aborted) throw error;
      await new Promise((resolve) => setTimeout(resolve, FINISH_RETRY_MS));
    }
  }
}

async function tell(
  deps: WorkerDeps,
  history: OpenedHistory,
  command: QuarantineCommand,
): Promise<QuarantinedMessage> {
  const { state } = await handleCommand(deps.log, quarantinedMessage, {
    stream: history.stream,
    resource: { type: 'quarantined_message', id: history.id },
    mailDomains: history.mailDomains,
    command,
    meta: metaAfter(history, deps),
    commandId: newCommandId(),
  });
  return state;
}

const gone: Tried = { results: [], replies: [], cause: 'content_gone' };
const NO_ROUTE = 'no backend server';

/** It throws only while no server has the whole message, so nobody has got it. */
function notSent(
  { logger }: WorkerDeps,
  { id, addresses, error }: Readonly<{ id: string; addresses: readonly string[]; error: unknown }>,
): DeliveryResult {
  logger.warn({ err: error, message_id: id }, 'a message could not be sent');
  const reply = 'not sent: this server stopped, or could not read the message';
  const said = { outcome: 'deferred', code: null, server: null, reply } as const;
  return { recipients: addresses.map((address) => ({ address, ...said })) };
}

/** A bounce is put off, too, when the message cannot be read. */
const unbounced =
  (deps: WorkerDeps, { id, disclosed: { sender } }: OpenedHistory) =>
  (error: unknown): Tried => {
    const to = { recipient: 0, address: sender ?? '' };
    const sent = notSent(deps, { id, addresses: [to.address], error });
    const { result, server, reply } = toResult(to, sent.recipients[0]);
    return { results: [result], replies: [{ recipient: to.address, server, reply }], cause: null };
  };

type Addressed = Readonly<{ recipient: number; address: string }>;

/** Numbered recipients by mail domain, as far as they are wanted; null when addresses were erased. */
function groupsOf(
  { recipients }: DisclosedMessage,
  wanted: readonly number[],
): { mailDomain: number | null; recipients: Addressed[] }[] | null {
  let number = 0;
  const groups = recipients.map(({ mail_domain: mailDomain, addresses }) => ({
    mailDomain,
    recipients: addresses
      .map((address) => ({ recipient: number++, address }))
      .filter(({ recipient }) => wanted.includes(recipient)),
  }));
  const found = groups.reduce((sum, group) => sum + group.recipients.length, 0);
  return found === wanted.length ? groups.filter((group) => group.recipients.length > 0) : null;
}

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
function traceOf({ nodeId, clock }: WorkerDeps, id: string): string {
  const date = clock.now().toUTCString().replace('GMT', '+0000');
  return `Received: from quarantine by ${nodeId} (MailGuard) with SMTP id ${id};\r\n\t${date}\r\n`;
}

/** The bytes as they arrived: what has changed since is an error before its end, so that nobody gets it. */
async function bytesOf(
  { store }: WorkerDeps,
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
