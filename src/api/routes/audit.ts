import { isNarrowed } from '../../domain/access.ts';
import { DomainError } from '../../domain/errors.ts';
import type { StoredEvent } from '../../eventlog/eventlog.ts';
import { evidenceText } from '../../eventlog/evidence.ts';
import { preferredType } from '../accept.ts';
import { sealedThrough, streamExport } from '../audit-export.ts';
import { AuditLineView } from '../audit-line-view.ts';
import { behind, gather, linesOf, renderEvents } from '../audit-page.ts';
import {
  AuditLineQuery,
  AuditQuery,
  requireEvidence,
  resolveReading,
  viewerOf,
} from '../audit-query.ts';
import type { Context } from '../context.ts';
import { CSV } from '../csv.ts';
import { invalid } from '../input.ts';
import { BASE_PATH } from '../paths.ts';
import { route } from '../route.ts';
import { PositionText } from '../schemas.ts';
import { z } from '../zod.ts';

const tag = 'Audit';
const NDJSON = 'application/x-ndjson';
const PAGE_LINES = 100;
const LAYOUTS: ReadonlyMap<string, 'ndjson' | 'csv'> = new Map([
  [NDJSON, 'ndjson'],
  [CSV, 'csv'],
]);
const OFFERED = ['application/json', ...LAYOUTS.keys()];
const NO_EVIDENCE_TABLE = {
  path: 'form',
  message: 'evidence is bytes that were hashed, which a table cannot hold',
};

const EvidenceLine = z
  .object({
    line: z.record(z.string(), z.unknown()).openapi({ description: 'The committed line.' }),
    disclosures: z.array(z.string()).openapi({ description: 'SD-JWT disclosures (RFC 9901).' }),
  })
  .openapi('EvidenceLine');
const Line = z.union([AuditLineView, EvidenceLine]);

const read = { operation: 'read', reach: 'mail_domain' } as const;

const listAuditLogs = route({
  id: 'listAuditLogs',
  method: 'get',
  path: '/audit/logs',
  tag,
  summary: 'Read the audit log, which is the event log itself, by cursor.',
  description:
    'Ascending unless `order=desc`. Poll with the last `X-Next-Cursor`: it is on every page, also the empty one, it ' +
    'never expires, and no event can ever appear behind it. With `Accept: application/x-ndjson` ' +
    'everything up to the head at the start is streamed, one event a line, closed by a trailer ' +
    '`{"trailer":{…}}`: an export without it was cut. `Accept: text/csv` exports the same as a table, without a ' +
    'trailer; cut, it resets the connection.',
  permission: read,
  query: AuditQuery,
  reply: z.array(Line),
  produces: { [NDJSON]: 'One line of JSON per event, then a trailer.' },
  isAuditRead: true,
  responseHeaders: {
    ETag: 'Of a page: pass as `If-None-Match` to be told of changes alone. An export has none.',
    'X-Next-Cursor': 'Where to go on, on every page.',
    'X-Has-More': '`true` while more is there already.',
    'X-Sealed-Through': 'Every event recorded before this instant is visible for good.',
    Link: 'The next page, `rel="next"`, while there is one.',
  },
  errors: [
    'invalid_cursor',
    'cursor_filter_mismatch',
    'cursor_log_mismatch',
    'cursor_ahead_of_log',
    'cursor_gone',
    'unknown_mail_domain',
  ],
  example: { query: { action: 'api_key.*', limit: 10 } },
  async handle(context, call) {
    const { query, principal, meta } = call;
    await context.auditTrail.recordRead(meta);
    const reading = await resolveReading(context, query, principal);
    const layout = LAYOUTS.get(preferredType(call.request.headers.accept, OFFERED) ?? '');
    if (layout !== undefined) {
      const { form, limit = null } = query;
      if (form === 'evidence' && layout === 'csv') throw invalid([NO_EVIDENCE_TABLE]);
      await streamExport(context, call, reading, { layout, form, limit });
      return 'streamed';
    }
    const page = await gather(context.log, reading, query.limit ?? PAGE_LINES);
    const next = context.cursors.encode(reading.bound, page.scannedTo);
    const headers: Record<string, string> = {
      'X-Next-Cursor': next,
      'X-Has-More': String(page.hasMore),
      'X-Sealed-Through': sealedThrough(reading.head.recordedAt),
    };
    if (page.hasMore) headers['Link'] = linkOf(call.request.url ?? '', next);
    if (query.form === 'evidence') {
      const dataText = `[${page.events.map(evidenceText).join(',')}]`;
      return { data: checkable(context, page.events), dataText, headers };
    }
    const lines = await linesOf(context.log, page, reading.viewer);
    const isUp = reading.order === 'asc';
    const data = lines.map((line, index) => ({
      ...line,
      cursor: context.cursors.encode(
        reading.bound,
        behind(page.events[index] as StoredEvent, isUp),
      ),
    }));
    return { data: data as never, headers };
  },
});

const getAuditLog = route({
  id: 'getAuditLog',
  method: 'get',
  path: '/audit/logs/{position}',
  tag,
  summary: 'Read one event by its position.',
  permission: read,
  params: z.strictObject({ position: PositionText }),
  query: AuditLineQuery,
  reply: Line,
  isAuditRead: true,
  errors: ['not_found'],
  async handle(context, { params, query, principal, meta }) {
    if (query.form === 'evidence') requireEvidence(principal);
    await context.auditTrail.recordRead(meta);
    const position = BigInt(params.position);
    const filter = isNarrowed(principal) ? { visibleTo: String(principal.mailDomain ?? 0) } : {};
    const { events } = await context.log.readAll({
      after: position - 1n,
      until: position,
      filter,
      limit: 1,
    });
    const [event] = events;
    if (event === undefined) throw new DomainError('not_found', 'There is no such event.');
    if (query.form === 'evidence') {
      return { data: toEvidence(event), dataText: evidenceText(event) };
    }
    const [line] = await renderEvents(context.log, events, viewerOf(context, principal));
    return { data: line as never };
  },
});

export const auditRoutes = [listAuditLogs, getAuditLog];

/** The same lines parsed, where replies are checked; elsewhere only their text is needed. */
const checkable = (context: Context, events: readonly StoredEvent[]) =>
  context.validateReplies ? events.map(toEvidence) : [];

function toEvidence({ line, disclosures }: Readonly<{ line: string; disclosures: string }>) {
  return {
    line: JSON.parse(line) as Record<string, unknown>,
    disclosures: disclosures === '' ? [] : (JSON.parse(`[${disclosures}]`) as string[]),
  };
}

function linkOf(url: string, cursor: string): string {
  const query = new URLSearchParams(url.split('?')[1] ?? '');
  query.delete('after');
  query.set('cursor', cursor);
  return `<${BASE_PATH}/audit/logs?${query.toString()}>; rel="next"`;
}
