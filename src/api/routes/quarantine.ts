import { searchMessages } from '../../projections/quarantine-list.ts';
import { BASE_PATH } from '../paths.ts';
import {
  placeText,
  QuarantineQuery,
  readPlace,
  requireOnePlace,
  SCAN_BUDGET,
  toSearch,
} from '../quarantine-query.ts';
import { QuarantineItem, viewMessages } from '../quarantine-view.ts';
import { route } from '../route.ts';
import { LIST_HEADERS } from '../schemas.ts';
import { z } from '../zod.ts';
import { quarantineActionRoutes } from './quarantine-actions.ts';
import { quarantineBulkRoutes } from './quarantine-bulk.ts';
import { quarantineIngestRoutes } from './quarantine-ingest.ts';
import { quarantineReadRoutes } from './quarantine-reads.ts';
import { quarantineTrainingRoutes } from './quarantine-training.ts';

const listMessages = route({
  id: 'listQuarantine',
  method: 'get',
  path: '/mail/quarantine',
  tag: 'Quarantine',
  summary: 'List held mail, newest first.',
  description: SCAN_BUDGET,
  permission: { operation: 'quarantine_read', reach: 'mail_domain' },
  query: QuarantineQuery,
  reply: z.array(QuarantineItem),
  responseHeaders: LIST_HEADERS,
  errors: ['unknown_mail_domain'],
  example: { query: { min_score: 5, limit: 10 } },
  async handle(context, { query, principal, request }) {
    requireOnePlace(query);
    const search = await toSearch(context, query, principal);
    const found = await searchMessages(context.pool, search, {
      after: readPlace(query.cursor),
      offset: query.offset ?? 0,
      limit: query.limit,
    });
    const headers: Record<string, string> = { 'X-Has-More': String(found.next !== null) };
    const last = found.rows.at(-1);
    const next = found.next ?? (last === undefined ? null : { ...last });
    if (next !== null) headers['X-Next-Cursor'] = placeText(next);
    if (found.next !== null) headers['Link'] = linkOf(request.url ?? '', placeText(found.next));
    return { data: await viewMessages(context, principal, found.rows), headers };
  },
});

export const quarantineRoutes = [
  listMessages,
  ...quarantineIngestRoutes,
  ...quarantineBulkRoutes,
  ...quarantineReadRoutes,
  ...quarantineActionRoutes,
  ...quarantineTrainingRoutes,
];

function linkOf(url: string, cursor: string): string {
  const query = new URLSearchParams(url.split('?')[1] ?? '');
  query.delete('offset');
  query.set('cursor', cursor);
  return `<${BASE_PATH}/mail/quarantine?${query.toString()}>; rel="next"`;
}
