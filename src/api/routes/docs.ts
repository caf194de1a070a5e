import { DomainError } from '../../domain/errors.ts';
import { sendDocsFile } from '../docs-page.ts';
import { type AnyRoute, route } from '../route.ts';
import { z } from '../zod.ts';

const shared = {
  method: 'get',
  tag: 'Service',
  permission: { operation: 'public' },
  reply: z.null(),
  responseHeaders: { ETag: 'Of the very bytes; with `If-None-Match` the answer is 304.' },
} as const;

/** The contract as a page to read and to try. */
export const docsRoutes: readonly AnyRoute[] = [
  route({
    ...shared,
    id: 'docs',
    path: '/docs',
    summary: 'This contract as a page, with a form for each request.',
    description:
      'Swagger UI, whole from this server: the page asks nothing of any other. A key that is typed in goes to this ' +
      'server alone, and is forgotten with the page.',
    produces: { 'text/html': 'The page.' },
    errors: [],
    async handle(_, { request, response }) {
      sendDocsFile(request, response, null);
      return 'streamed';
    },
  }),
  route({
    ...shared,
    id: 'docsFile',
    path: '/docs/{file}',
    summary: 'What the page loads.',
    params: z.strictObject({ file: z.string() }),
    produces: { 'text/css': 'Its style sheet.', 'text/javascript': 'Its scripts.' },
    errors: ['not_found'],
    example: { params: { file: 'start.js' } },
    async handle(_, { params, request, response }) {
      if (sendDocsFile(request, response, params.file)) return 'streamed';
      throw new DomainError('not_found', 'The page has no such file.');
    },
  }),
];
