import {
  OpenAPIRegistry,
  OpenApiGeneratorV31,
  type ResponseConfig,
  type RouteConfig,
} from '@asteasolutions/zod-to-openapi';
import { stringify } from 'yaml';
import { acceptedScopes } from '../domain/access.ts';
import type { ErrorCode } from '../domain/errors.ts';
import { describeDeprecation } from './deprecation.ts';
import { STATUS } from './error-status.ts';
import { registerWebhooks } from './openapi-webhooks.ts';
import { BASE_PATH } from './paths.ts';
import { isTagged } from './revalidation.ts';
import type { AnyRoute } from './route.ts';
import { z } from './zod.ts';

/** Version of the contract; a release tag is the same. */
const API_VERSION = '0.1.0';

type Printed = Readonly<{ yaml: string; json: string }>;
const printed = new WeakMap<readonly AnyRoute[], Printed>();

/** The contract as it is committed and served. */
export const openapiYaml = (routes: readonly AnyRoute[]): string => print(routes).yaml;
export const openapiJson = (routes: readonly AnyRoute[]): string => print(routes).json;

function print(routes: readonly AnyRoute[]): Printed {
  const known = printed.get(routes);
  if (known !== undefined) return known;
  const document = toDocument(routes);
  const made = {
    yaml: stringify(document, { lineWidth: 100, aliasDuplicateObjects: false }),
    json: JSON.stringify(document),
  };
  printed.set(routes, made);
  return made;
}

function toDocument(routes: readonly AnyRoute[]) {
  const registry = new OpenAPIRegistry();
  registry.registerComponent('securitySchemes', 'ApiKey', {
    type: 'apiKey',
    in: 'header',
    name: 'X-API-Key',
    description: '`nmg_` and 64 lower-case hex digits. Never put it into a URL.',
  });
  registry.registerComponent('securitySchemes', 'IngestPassword', {
    type: 'http',
    scheme: 'basic',
    description: 'User `ingest`, for rspamd’s metadata exporter alone.',
  });
  for (const route of routes) registry.registerPath(toPath(route));
  registerWebhooks(registry);
  return new OpenApiGeneratorV31(registry.definitions, {
    sortComponents: 'alphabetically',
  }).generateDocument({
    openapi: '3.1.0',
    info: {
      title: 'MailGuard',
      version: API_VERSION,
      description: INTRODUCTION,
      license: { name: 'Proprietary', url: 'https://mailguard.invalid/license' },
    },
    servers: [{ url: '/', description: 'This server.' }],
    tags: [...new Set(routes.map(({ tag }) => tag))].map((name) => ({
      name,
      description: TAGS[name] ?? name,
    })),
  });
}

const INTRODUCTION = `\
Backend of a mail-security gateway: every change is an event, and the audit log is the event log itself.

Every JSON answer is an envelope of exactly \`data\`, \`error\` and \`message\`; \`error\` is null or a stable code.
Times are RFC 3339 in UTC, 64-bit values are strings. Requests carry \`X-API-Key\`; answers carry \`X-Request-Id\`,
\`RateLimit\` and \`RateLimit-Policy\`. POST takes \`Idempotency-Key\`: for 24 hours the first answer is given again.
GET answers to HEAD as well; with the \`ETag\` of a read as \`If-None-Match\` it is 304 while nothing else would be
shown; gzip is used where it is accepted. Headers of more than 64 KiB are refused with 431.`;

const TAGS: Readonly<Record<string, string>> = {
  'API keys': 'Who may call, how often, and since when.',
  Quarantine: 'Mail that is held: what it is, and what becomes of it.',
  'Mail domains': 'The DNS domains whose mail is protected.',
  'Sender filters': 'Senders whose mail is let through, or is not.',
  Audit: 'What happened, by whom, and what can be proved of it.',
  Webhooks: 'URLs that are told of events, each by a cursor over the log.',
  Service: 'The program itself.',
};

function toPath(route: AnyRoute): RouteConfig {
  const isPublic = route.permission.operation === 'public';
  const body = bodyOf(route);
  const headers = headerParameters(route);
  return {
    method: route.method,
    path: route.atRoot ? route.path : BASE_PATH + route.path,
    operationId: route.id,
    tags: [route.tag],
    summary: route.summary,
    ...(route.deprecated === undefined ? {} : { deprecated: true }),
    ...(describe(route) === '' ? {} : { description: describe(route) }),
    security: isPublic
      ? []
      : [{ ApiKey: [] }, ...(route.takesIngestPassword ? [{ IngestPassword: [] }] : [])],
    request: {
      ...(route.params === undefined
        ? {}
        : { params: withExamples(route.params, route.example?.params) }),
      ...(route.query === undefined
        ? {}
        : { query: withExamples(route.query, route.example?.query) }),
      ...(headers === null ? {} : { headers }),
      ...(body === null ? {} : { body }),
    },
    responses: responsesOf(route),
  };
}

function bodyOf(route: AnyRoute) {
  const { body, intake, example } = route;
  const json = route.mergePatch
    ? ['application/json', 'application/merge-patch+json']
    : ['application/json'];
  // The first of them is enough for a client; the others are only taken.
  const mediaTypes = intake === undefined ? json : intake.mediaTypes.slice(0, 1);
  const schema = intake === undefined ? body : z.string().openapi({ format: 'binary' });
  if (schema === undefined) return null;
  const shown = { schema, ...(example?.body === undefined ? {} : { example: example.body }) };
  return {
    required: route.bodyOptional !== true,
    content: Object.fromEntries(mediaTypes.map((type) => [type, shown])),
  };
}

/** Examples of parameters that many routes have: the first that its schema takes. */
const USUAL: Readonly<Record<string, readonly (string | number)[]>> = {
  id: [1, '019683b4-a5c8-7857-bd64-bba9f0cfe218'],
  job_id: ['019683b4-a5c8-7857-bd64-bba9f0cfe219'],
  node_id: ['node-1'],
  queue_id: ['4F2A8C0D'],
  position: ['1'],
  type: ['quarantine.added'],
  replay_id: [1],
};

/** Examples stand on the parameters, where generators of clients and of requests look for them. */
function withExamples(shape: z.ZodObject, examples: object | undefined): z.ZodObject {
  const given = (examples ?? {}) as Record<string, unknown>;
  const members = Object.entries(shape.shape).map(([name, schema]) => {
    const usual = USUAL[name]?.find(
      (value) => (schema as z.ZodType).safeParse(String(value)).success,
    );
    const example = given[name] ?? usual;
    return [
      name,
      example === undefined ? schema : (schema as z.ZodType).openapi({ example }),
    ] as const;
  });
  return z.strictObject(Object.fromEntries(members));
}

function headerParameters(route: AnyRoute): z.ZodObject | null {
  const headers: Record<string, z.ZodType> = {
    ...(route.intake === undefined
      ? {}
      : withExamples(route.intake.headers, route.example?.headers).shape),
  };
  if (route.method === 'post') {
    headers['Idempotency-Key'] = z
      .string()
      .min(1)
      .max(255)
      .optional()
      .openapi({ description: 'Makes a repetition of this request harmless.' });
  }
  if (route.conditional) {
    headers['If-Match'] = z
      .string()
      .optional()
      .openapi({ description: 'The `ETag` you last saw; 412 if it changed since.' });
  }
  if (isTagged(route)) {
    headers['If-None-Match'] = z
      .string()
      .optional()
      .openapi({ description: 'The `ETag` you have, or several; 304 while it is still the one.' });
  }
  return Object.keys(headers).length === 0 ? null : z.object(headers);
}

function describe(route: AnyRoute): string {
  const parts = [route.description ?? ''];
  if (route.permission.operation !== 'public') {
    const { operation, reach } = route.permission;
    const scopes = acceptedScopes(operation, reach)
      .map((scope) => `\`${scope}\``)
      .join(', ');
    const narrowed = reach === 'installation' ? ' Not for keys narrowed to a mail domain.' : '';
    parts.push(`Scopes: ${scopes}.${narrowed}`);
  }
  if (route.deprecated !== undefined) parts.push(describeDeprecation(route.deprecated));
  return parts.filter((part) => part !== '').join('\n\n');
}

const envelopeOf = (data: z.ZodType) => z.object({ data, error: z.null(), message: z.string() });

function responsesOf(route: AnyRoute): Record<string, ResponseConfig> {
  const status = route.status ?? 200;
  const headers = z.object(
    Object.fromEntries(
      Object.entries({
        ...(isTagged(route)
          ? { ETag: 'Pass as `If-None-Match` to be told of changes alone.' }
          : {}),
        ...route.responseHeaders,
      }).map(([name, description]) => [name, z.string().optional().openapi({ description })]),
    ),
  );
  const other = Object.fromEntries(
    Object.entries(route.produces ?? {}).map(([type, description]) => [
      type,
      { schema: z.string().openapi({ description }) },
    ]),
  );
  const hasEnvelope = !(route.reply instanceof z.ZodNull && route.produces !== undefined);
  const isDocument = route.id === 'openapiJson';
  const json = isDocument ? z.looseObject({}) : envelopeOf(route.reply);
  const success: ResponseConfig = {
    description: route.message ?? 'OK',
    ...(Object.keys(headers.shape).length === 0 ? {} : { headers }),
    content: { ...(hasEnvelope ? { 'application/json': { schema: json } } : {}), ...other },
  };
  const responses: Record<string, ResponseConfig> = { [String(status)]: success };
  if (route.permission.operation !== 'public' && route.method !== 'get') {
    responses['202'] = { ...success, description: 'Recorded; the effect is under way.' };
  }
  if (route.takesIngestPassword === true) {
    responses['200'] = { ...success, description: 'The same, for the ingest password.' };
  }
  if (isTagged(route)) {
    responses['304'] = { description: 'It is as `If-None-Match` says; there is no body.', headers };
  }
  for (const [code, codes] of refusalsOf(route)) {
    responses[String(code)] = {
      description: codes.map((name) => `\`${name}\``).join(', '),
      content: { 'application/json': { schema: refusal } },
    };
  }
  return responses;
}

const refusal = z
  .object({
    data: z.unknown().openapi({ description: 'Details, such as `issues` of a failed validation.' }),
    error: z.enum(Object.keys(STATUS) as [ErrorCode, ...ErrorCode[]]),
    message: z.string(),
  })
  // What may be anything counts as what may be absent, which no member of an envelope is.
  .openapi('Refusal', { required: ['data', 'error', 'message'] });

/** Every refusal that a route can meet, by status: its own, and those of what it takes and asks. */
function refusalsOf(route: AnyRoute): Map<number, ErrorCode[]> {
  const codes = new Set<ErrorCode>(route.errors);
  for (const code of [
    'validation_failed',
    'bad_request',
    'key_in_url',
    'not_acceptable',
    'internal',
    'unavailable',
  ] as const) {
    codes.add(code);
  }
  if (route.permission.operation !== 'public') {
    for (const code of ['unauthorized', 'scope_forbidden', 'rate_limited'] as const)
      codes.add(code);
  }
  if (route.body !== undefined || route.intake !== undefined) {
    for (const code of ['payload_too_large', 'unsupported_media_type'] as const) codes.add(code);
  }
  if (route.method === 'post') {
    for (const code of ['idempotency_in_progress', 'idempotency_mismatch', 'erased'] as const) {
      codes.add(code);
    }
  }
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of [...codes].sort()) {
    byStatus.set(STATUS[code], [...(byStatus.get(STATUS[code]) ?? []), code]);
  }
  return new Map([...byStatus].sort(([a], [b]) => a - b));
}
