import { pipeline } from 'node:stream/promises';
import { DomainError } from '../../domain/errors.ts';
import { messageReadsStream } from '../../domain/quarantined-message.ts';
import { subjectOf } from '../../eventlog/eventlog.ts';
import { toAppend } from '../../eventlog/handle-command.ts';
import { PREVIEW_BYTES_MAX, previewMail } from '../../mail/mail-preview.ts';
import { AuditLineView } from '../audit-line-view.ts';
import { gather, linesOf } from '../audit-page.ts';
import { viewerOf } from '../audit-query.ts';
import type { Context } from '../context.ts';
import {
  findVisibleMessage,
  MailPreviewView,
  type MessagePath,
  QuarantineItem,
  requireAllRecipients,
  targetOf,
  viewMessage,
} from '../quarantine-view.ts';
import { type Answer, type Call, route } from '../route.ts';
import { ListQuery, PositionText } from '../schemas.ts';
import { z } from '../zod.ts';
import { atBothPaths, MESSAGE_BY_ID } from './quarantine-paths.ts';

const tag = 'Quarantine';
const read = { operation: 'quarantine_read', reach: 'mail_domain' } as const;
const PREVIEWS_MAX = 4;

const getMessage = route({
  ...MESSAGE_BY_ID,
  id: 'getQuarantinedMessage',
  method: 'get',
  tag,
  summary: 'Show one held message.',
  permission: read,
  reply: QuarantineItem,
  changesWithRevision: true,
  errors: ['not_found'],
  async handle(context, { params, principal }) {
    const row = await findVisibleMessage(context, principal, params);
    return { data: await viewMessage(context, principal, row), revision: row.revision };
  },
});

const bodies = atBothPaths('body', (at) =>
  route({
    ...at,
    id: at.named('getQuarantinedBody'),
    method: 'get',
    tag,
    summary: 'Download the raw message. The download is an event.',
    permission: read,
    reply: z.null(),
    untagged: true,
    produces: { 'message/rfc822': 'The message, byte for byte as it was handed in.' },
    errors: ['not_found', 'foreign_recipients', 'content_gone'],
    async handle(context, call) {
      await streamBody(context, call);
      return 'streamed';
    },
  }),
);

const previews = atBothPaths('preview', (at) =>
  route({
    ...at,
    id: at.named('previewQuarantinedMessage'),
    method: 'get',
    tag,
    summary: 'Show a message without its dangers. The look is an event.',
    description:
      'HTML has no scripts, no live links and loads nothing; attachments are named, never unpacked. At ' +
      `most the first ${PREVIEW_BYTES_MAX} bytes are looked at.`,
    permission: read,
    reply: MailPreviewView,
    errors: ['not_found', 'foreign_recipients', 'content_gone'],
    handle: (context, call) => preview(context, call),
  }),
);

const histories = atBothPaths('history', (at) =>
  route({
    ...at,
    id: at.named('getQuarantineHistory'),
    method: 'get',
    tag,
    summary: 'Everything that happened to a message, in order.',
    permission: read,
    query: z.strictObject({
      limit: ListQuery.shape.limit,
      cursor: PositionText.optional().openapi({ description: 'From `X-Next-Cursor`.' }),
    }),
    reply: z.array(AuditLineView),
    responseHeaders: {
      'X-Next-Cursor': 'Pass as `cursor` for what comes after.',
      'X-Has-More': '`true` while there is more.',
    },
    errors: ['not_found'],
    async handle(context, { params, principal, query }) {
      const row = await findVisibleMessage(context, principal, params);
      const { position: until } = await context.log.head();
      const viewer = viewerOf(context, principal);
      const filter = { resources: [subjectOf(targetOf(row).resource)] };
      const after = BigInt(query.cursor ?? 0);
      const range = { after, until, filter, order: 'asc', search: null, viewer } as const;
      const page = await gather(context.log, range, query.limit);
      const lines = await linesOf(context.log, page, viewer);
      const last = page.events.at(-1)?.position ?? query.cursor ?? '0';
      const headers = { 'X-Next-Cursor': String(last), 'X-Has-More': String(page.hasMore) };
      return { data: lines as never, headers };
    },
  }),
);

export const quarantineReadRoutes = [getMessage, ...bodies, ...previews, ...histories];

type ReadCall = Call<MessagePath, unknown, unknown>;

async function streamBody(context: Context, call: ReadCall): Promise<void> {
  const { response, request } = call;
  const { row, opened } = await open(context, call, 'body');
  response.setHeader('Content-Type', 'message/rfc822');
  response.setHeader('Content-Length', String(opened.sizeBytes));
  response.setHeader('Content-Disposition', `attachment; filename="${row.id}.eml"`);
  if (request.method === 'HEAD') {
    await opened.bytes[Symbol.asyncIterator]().return?.();
    response.end();
    return;
  }
  // A client that goes away ends the stream, and with it the file.
  await pipeline(opened.bytes, response).catch((error: unknown) => {
    context.logger.debug({ err: error, message_id: row.id }, 'a download was cut');
    response.destroy();
  });
}

let previewing = 0;

async function preview(
  context: Context,
  call: ReadCall,
): Promise<Answer<z.input<typeof MailPreviewView>>> {
  if (previewing >= PREVIEWS_MAX) {
    throw new DomainError('unavailable', `${PREVIEWS_MAX} previews are under way; try again.`, {
      retry_after_seconds: 1,
    });
  }
  previewing += 1;
  try {
    const { opened } = await open(context, call, 'preview');
    const bytes = await readStart(opened.bytes);
    return { data: previewMail(bytes, opened.sizeBytes) };
  } finally {
    previewing -= 1;
  }
}

/** A message's bytes for one reader, recorded before the first of them leaves. */
async function open(
  context: Context,
  { params, principal, meta, commandId, request }: ReadCall,
  what: 'body' | 'preview',
) {
  const row = await findVisibleMessage(context, principal, params);
  requireAllRecipients(row, principal);
  const opened = await context.quarantine.store.open(row.id);
  if (opened === null) {
    throw new DomainError('content_gone', `The message is ${row.state}; its bytes are not kept.`);
  }
  if (request.method === 'HEAD') return { row, opened };
  try {
    // A stream of their own: however many read a message, nobody who acts on it has to wait.
    const call = { ...targetOf(row), meta, commandId };
    const read = { type: 'quarantine.content_read', data: { what } } as const;
    await context.log.append({
      stream: messageReadsStream(row.id),
      expected: 'any',
      events: [toAppend(read, call)],
    });
  } catch (error) {
    await opened.bytes[Symbol.asyncIterator]().return?.();
    throw error;
  }
  return { row, opened };
}

async function readStart(bytes: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of bytes) {
    chunks.push(chunk);
    length += chunk.length;
    if (length >= PREVIEW_BYTES_MAX) break;
  }
  return Buffer.concat(chunks).subarray(0, PREVIEW_BYTES_MAX);
}
