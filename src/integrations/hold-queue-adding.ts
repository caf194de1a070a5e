import { createHash } from 'node:crypto';
import type pg from 'pg';
import { type Clock, toTimestamp } from '../clock.ts';
import type { AnnouncedMail } from '../db/quarantine-announcements.ts';
import { HEAD_BYTES_MAX } from '../domain/message-store.ts';
import type { AddedData, HeldBy, Reason, Scan } from '../domain/quarantine-language.ts';
import { quarantinedMessage, quarantinedMessageStream } from '../domain/quarantined-message.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { commandIdOf, handleCommand } from '../eventlog/handle-command.ts';
import { systemMeta } from '../eventlog/system-meta.ts';
import { readMailHead } from '../mail/mail-head.ts';
import {
  countsOf,
  groupRecipients,
  personalOf,
  retentionMsOf,
} from '../projections/recipient-groups.ts';
import type { Secrets } from '../secrets.ts';
import type { HeldFile, HoldQueue, QueueEntry } from './hold-queue.ts';
import type { LogFacts, MailLog } from './mail-log.ts';
import type { Rspamd } from './rspamd.ts';

export type AddingDeps = Readonly<{
  pool: pg.Pool;
  log: EventLog;
  secrets: Secrets;
  clock: Clock;
  nodeId: string;
  /** Null: nothing can be asked of the filter. */
  rspamd: Pick<Rspamd, 'check'> | null;
  queue: HoldQueue;
  mailLog: MailLog;
}>;

/** How far the mail log may be behind the queue. */
export const LOG_BEHIND_MS = 1_500;
const FRESH_MS = 60_000;
/** Announcements may come some seconds before the file; those that are older are of another message. */
const EARLY_MS = 60_000;

/** A held file that is not part of the quarantine yet. */
export type Find = Readonly<{
  file: HeldFile;
  announced: AnnouncedMail | null;
  /** How often this very file was part of the quarantine before, and has left it. */
  episode: number;
  /** By the process's own timer: until then the mail log is waited for. */
  logUntilMs: number;
}>;

/**
 * Makes a held file part of the quarantine. The same find gives the same message, so that doing it again records
 * nothing. False when the file was gone before it was read.
 */
export async function addHeld(deps: AddingDeps, find: Find, entry: QueueEntry): Promise<boolean> {
  const { nodeId, clock } = deps;
  const read = await readHeld(deps.queue, find.file);
  if (read === null) return false;
  const id = idOf(nodeId, find);
  const recipients = [...new Set(entry.recipients.map(normalise))];
  const groups = await groupRecipients(deps, recipients);
  const { file, announced } = find;
  const heldBy = await heldByOf(deps, find);
  const sender = normalise(entry.sender);
  const scan =
    announced === null
      ? await scanAgain(deps, file, { heldBy, sender, recipients, read })
      : scanOf(announced);
  // From the taking in, not from the arrival: what somebody holds that came long ago is not to go at once.
  const expires = new Date(clock.nowMs() + retentionMsOf(groups));
  const data: AddedData = {
    node_id: nodeId,
    queue_id: file.queueId,
    store: 'postfix',
    queue_file: file.file,
    held_by: heldBy,
    size_bytes: read.sizeBytes,
    sha256: read.sha256,
    ...scan,
    arrived_at: toTimestamp(entry.arrivedAt),
    expires_at: toTimestamp(expires),
    recipients_of: countsOf(groups),
  };
  const head = readMailHead(read.head);
  const told = {
    sender,
    subject: head?.subject ?? '',
    messageId: head?.messageId ?? null,
    clientIp: announced?.clientIp ?? null,
  };
  await handleCommand(deps.log, quarantinedMessage, {
    stream: quarantinedMessageStream(id),
    resource: { type: 'quarantined_message', id },
    mailDomains: groups.flatMap(({ row }) => (row === null ? [] : [String(row.id)])),
    command: { type: 'AddMessage', data, personal: personalOf(told, groups) },
    meta: systemMeta(deps, clock.now()),
    commandId: commandIdOf(0, `add/${id}`),
  });
  return true;
}

/**
 * What the filter held and did not announce, since an announcement was lost or, as for GTUBE, is never made, is shown to
 * it again. What it did not hold stays unscanned, whatever it would say now.
 */
async function scanAgain(
  { queue, rspamd }: AddingDeps,
  file: HeldFile,
  of: Readonly<{ heldBy: HeldBy; sender: string; recipients: readonly string[]; read: Read }>,
): Promise<Scan> {
  if (of.heldBy !== 'filter' || rspamd === null) return UNSCANNED;
  // With the marks of the filter in it, it is not the message that the filter saw: the score would be another.
  if (MARKED.test(of.read.head.toString('latin1'))) return UNSCANNED;
  const bytes = await queue.open(file);
  return (bytes && (await rspamd.check(of, bytes, of.read.sizeBytes))) ?? UNSCANNED;
}

/** Whether an announcement can be of the message that came at this time. */
export const isOf = ({ announcedAt }: AnnouncedMail, mtime: string): boolean =>
  announcedAt.getTime() >= Number(mtime) * 1_000 - EARLY_MS;

const MARKED = /^x-(?:spamd-result|spam-status|rspamd-\S+):/im;

/** What nobody has looked at; that is not a score of 0. */
const UNSCANNED: Scan = { score: null, symbols: [], reason: 'unscanned' };

export const scanOf = ({ score, symbols, reason }: AnnouncedMail): Scan => ({
  score,
  symbols,
  reason: reason as Reason,
});

/** The log is read a moment later than the queue; of what has come long ago it says nothing new. */
async function heldByOf(
  { mailLog, clock }: Pick<AddingDeps, 'mailLog' | 'clock'>,
  { file, announced, episode, logUntilMs }: Find,
): Promise<HeldBy> {
  const arrivedMs = Number(file.file.mtime) * 1_000;
  const { queueId } = file;
  const isFresh = clock.nowMs() - arrivedMs < FRESH_MS;
  // Of what was here before the log has said who held it then.
  const isSaid = (said: LogFacts | null) =>
    said?.heldBy != null && (episode === 0 || said.heldBy === 'hand');
  const leftMs = isFresh ? logUntilMs - performance.now() : 0;
  const facts = leftMs > 0 ? await mailLog.wait(queueId, isSaid, leftMs) : mailLog.factsOf(queueId);
  return facts?.heldBy ?? (announced === null ? 'unknown' : 'filter');
}

function idOf(nodeId: string, { file: { queueId, file }, episode }: Find): string {
  return commandIdOf(0, `hold/${nodeId}/${queueId}/${file.size}/${file.mtime}/${episode}`);
}

/** An address as it is compared: its domain in lower case. */
function normalise(address: string): string {
  const at = address.lastIndexOf('@');
  return `${address.slice(0, at + 1)}${address.slice(at + 1).toLowerCase()}`;
}

type Read = Readonly<{ sizeBytes: number; sha256: string; head: Buffer }>;

/** The whole message, for its digest; only its head is kept. */
async function readHeld(queue: HoldQueue, file: HeldFile): Promise<Read | null> {
  const bytes = await queue.open(file);
  if (bytes === null) return null;
  const hash = createHash('sha256');
  const head: Buffer[] = [];
  let sizeBytes = 0;
  for await (const chunk of bytes) {
    hash.update(chunk);
    if (sizeBytes < HEAD_BYTES_MAX) head.push(chunk);
    sizeBytes += chunk.length;
  }
  const kept = Buffer.concat(head).subarray(0, HEAD_BYTES_MAX);
  return { sizeBytes, sha256: hash.digest('hex'), head: kept };
}
