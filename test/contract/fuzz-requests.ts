import fc from 'fast-check';
import type { Operation } from './answers.ts';
import { type Hints, ODD_TEXT, spoilt, valid } from './arbitrary.ts';
import type { Document, Schema } from './narrowed.ts';

/**
 * A request before it is sent. `{{name}}` in any of its texts stands for what the world has by then, so that a
 * plan is the same in every run, and can be made smaller, whatever ids a run happens to give.
 */
export type Plan = Readonly<{
  path: string;
  headers: readonly (readonly [name: string, value: string])[];
  body: string | null;
}>;

const LATER = '2031-01-01T00:00:00Z';
const MAIL =
  'From: eve@sender.example\r\nTo: you@example.com\r\nSubject: Hi\r\n\r\nHello {{fresh}}.\r\n';

/** The first of each is what a plain request says. */
const HINTS: Hints = {
  mail_domain: ['{{domain_name}}', null, 'unknown.example'],
  domain: ['{{domain_name}}', 'unknown.example'],
  name: ['{{fresh}}.example.com', 'a name'],
  expires_at: [LATER, '2001-01-01T00:00:00Z'],
  backend_servers: [['{{sink}}'], []],
  ids: [['{{message}}'], ['{{message}}', '019683b4-a5c8-7857-bd64-bba9f0cfe218']],
  filter: [{ domain: '{{domain_name}}' }, { min_score: 5 }, { surprise: 1 }],
  recipients: [['you@{{domain_name}}'], ['me@other.example']],
  recipient: ['you@{{domain_name}}', 'you@unknown.example'],
  sender: ['eve@sender.example', '@sender.example', 'no address'],
  url: ['{{receiver}}', 'http://127.0.0.1:1/', 'http://10.0.0.1/', 'ftp://127.0.0.1/'],
  event_types: [['mail_domain.created'], ['*'], ['no.such']],
  secret: [`whsec_${Buffer.alloc(32, 7).toString('base64')}`, null, 'whsec_x'],
  position: ['1', '0', '9223372036854775807'],
  cursor: ['i5', '{{cursor}}'],
  after: ['1', '0'],
  actor: ['api_key:1', 'system:gateway'],
  resource: ['mail_domain:1', 'api_key:1,api_key:2'],
  action: ['mail_domain.*', 'api_key.created'],
  outcome: ['success', 'success,failure'],
  actor_type: ['api_key'],
  resource_type: ['mail_domain'],
  reason: ['spam', 'virus,policy'],
  state: ['held', 'any', 'released,discarded'],
  status: ['delivered', 'retrying'],
  type: ['mail_domain.created'],
  from: ['2026-01-01T00:00:00Z', LATER],
  to: [LATER, '2026-01-01T00:00:00Z'],
  'Idempotency-Key': ['{{fresh}}', 'the-same', 'a b', 'ä'],
  'If-Match': ['*', '"0"', '"1"', 'W/"1"'],
  'X-Mail-From': ['eve@sender.example', '<>', ''],
  'X-Rcpt-To': ['you@{{domain_name}}', 'you@unknown.example, you@{{domain_name}}'],
  'X-Spam-Score': ['7.5', '-3'],
  'X-Quarantine-Reason': ['spam', 'phishing'],
  'X-Queue-Id': ['{{fresh}}Q'],
  'X-Arrived-At': ['2026-05-01T00:00:00Z'],
};
/** Where a member of a body means something else than a parameter of the same name. */
const IN_BODIES: Readonly<Record<string, Hints>> = {
  createApiKey: { name: ['key {{fresh}}'], mail_domain: [null, '{{domain_name}}', 999_999] },
  updateApiKey: { name: ['key {{fresh}}'] },
  createWebhookReplay: { from: ['earliest', { position: '1' }], to: [{ position: '2' }] },
  createSenderFilter: { mail_domain: ['{{domain_name}}', null, 999_999] },
  replaceMailDomain: { name: ['{{victim_domain_name}}'] },
  patchMailDomain: { name: ['{{victim_domain_name}}'] },
};

/** Members of a plain body that the document does not demand, but the operation does. */
const PLAIN_BODIES: Readonly<Record<string, object>> = {
  createApiKey: { name: 'key {{fresh}}', scope: 'read-only', mail_domain: '{{domain_name}}' },
  createQuarantineBulk: { action: 'discard', ids: ['{{message}}'] },
  createSenderFilter: {
    kind: 'block',
    scope: 'mail_domain',
    sender: '{{fresh}}@sender.example',
    mail_domain: '{{domain_name}}',
  },
  createWebhook: {
    url: '{{receiver}}',
    event_types: ['mail_domain.created'],
    mail_domain: '{{domain_name}}',
  },
  createWebhookReplay: { from: 'earliest', reason: 'they ask' },
  retrainMessage: { class: 'ham' },
  retrainMessageInQueue: { class: 'ham' },
  createMailDomain: { name: '{{fresh}}.example.com' },
  replaceMailDomain: { name: '{{victim_domain_name}}', quarantine_threshold: 5 },
  patchMailDomain: { quarantine_threshold: 5 },
  updateApiKey: { name: 'key {{fresh}}' },
  updateWebhook: { description: 'x' },
};

/** What of the world stands in each place of a path; several places may have the same name. */
function slotsOf({ path }: Operation, name: string): readonly string[] {
  const first = path.split('/')[3];
  if (name === 'file') return ['start.js'];
  if (name !== 'id') return [`{{${name}}}`];
  if (first === 'auth') return ['{{key}}'];
  if (first === 'domains') return ['{{victim_domain}}', '{{domain}}'];
  if (first === 'webhooks') return ['{{webhook}}'];
  return first === 'mail' ? ['{{message}}'] : ['{{filter}}'];
}

/** The simplest request that ought to succeed. */
export function plainPlan(operation: Operation): Plan {
  const { id, path, spec } = operation;
  const parameters = (spec['parameters'] ?? []) as Schema[];
  const headers = parameters
    .filter((one) => one['in'] === 'header' && one['required'] === true)
    .map((one) => [one['name'] as string, String(HINTS[one['name']]?.[0])] as const);
  const content = spec['requestBody']?.content ?? {};
  const [type] = Object.keys(content);
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, name) => slotsOf(operation, name)[0] ?? '');
  if (type === undefined) return { path: filled, headers, body: null };
  const body = type === 'message/rfc822' ? MAIL : JSON.stringify(PLAIN_BODIES[id] ?? {});
  return { path: filled, headers: [...headers, ['Content-Type', type]], body };
}

/** Requests to an operation: as its schemas have them, and spoilt. */
export function plansOf(document: Document, operation: Operation): fc.Arbitrary<Plan> {
  const source = { document, hints: { ...HINTS, ...IN_BODIES[operation.id] } };
  const parameters = (operation.spec['parameters'] ?? []) as Schema[];
  const textOf = (parameter: Schema): fc.Arbitrary<string> =>
    fc
      .oneof(
        {
          weight: 4,
          arbitrary: valid({ document, hints: HINTS }, parameter['schema'], parameter['name']),
        },
        { weight: 1, arbitrary: spoilt(source, parameter['schema']) },
      )
      .map((value) => (typeof value === 'string' ? value : (JSON.stringify(value) ?? '')));
  const pairs = (place: string): fc.Arbitrary<[string, string][]> => {
    const own = parameters.filter((one) => one['in'] === place);
    const one = own.map((parameter) => {
      const pair = fc.tuple(fc.constant(parameter['name'] as string), textOf(parameter));
      const isAlways = parameter['required'] === true;
      return fc.oneof(
        { weight: isAlways ? 9 : 1, arbitrary: pair.map((p) => [p]) },
        { weight: isAlways ? 1 : own.length, arbitrary: fc.constant([]) },
      );
    });
    return fc.tuple(...one).map((lists) => lists.flat());
  };
  return fc
    .record({
      path: pathsOf(operation, textOf, parameters),
      query: fc.tuple(pairs('query'), queryNoise).map(([own, noise]) => toQuery(own, noise)),
      headers: fc.tuple(pairs('header'), headerNoise),
      body: bodiesOf(source, operation),
    })
    .map(({ path, query, headers: [own, noise], body: { type, text } }) => ({
      path: path + query,
      headers: [...own, ...noise, ...type].map(
        ([name, value]) => [name, headerText(value)] as const,
      ),
      body: text,
    }));
}

/** What HTTP cannot carry in a header is not sent at all, so it is sent as something that can be. */
const headerText = (value: string): string =>
  value.slice(0, 3_000).replaceAll(/[^\t\x20-\x7e\x80-\xff]/g, '?');

function pathsOf(
  operation: Operation,
  textOf: (parameter: Schema) => fc.Arbitrary<string>,
  parameters: readonly Schema[],
): fc.Arbitrary<string> {
  const names = [...operation.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name ?? '');
  const values = names.map((name) => {
    const parameter = parameters.find((one) => one['name'] === name) ?? {};
    const slots = fc.constantFrom(...slotsOf(operation, name));
    // Nothing, and dots, would make another path of it.
    const other = textOf(parameter).map((text) => segment(/^\.{0,2}$/.test(text) ? '0' : text));
    return fc.oneof({ weight: 5, arbitrary: slots }, { weight: 1, arbitrary: other });
  });
  return fc.tuple(...values).map((texts) => {
    const left = [...texts];
    return operation.path.replaceAll(/\{\w+\}/g, () => left.shift() ?? '');
  });
}

/** A text as part of a URL; a lone surrogate as the bytes that some encoders make of it. */
const segment = (text: string): string =>
  text
    .slice(0, 2_000)
    .split(/(\{\{\w+\}\})/)
    .map((part) => (/^\{\{\w+\}\}$/.test(part) ? part : encode(part)))
    .join('');

function encode(text: string): string {
  try {
    return encodeURIComponent(text);
  } catch {
    return '%ed%a0%80';
  }
}

const queryNoise = fc.oneof(
  { weight: 12, arbitrary: fc.constant('') },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      'surprise=1',
      '%',
      'x=%00',
      '%ed%a0%80=1',
      'limit[]=1',
      '__proto__=1',
      '=',
      '&&',
      'repeat',
    ),
  },
);

function toQuery(own: readonly (readonly [string, string])[], noise: string): string {
  const parts = own.map(([name, value]) => `${name}=${segment(value)}`);
  const repeated = noise === 'repeat' ? [...parts, ...parts.slice(0, 1)] : parts;
  const all = noise === '' || noise === 'repeat' ? repeated : [...repeated, noise];
  return all.length === 0 ? '' : `?${all.join('&')}`;
}

const headerNoise: fc.Arbitrary<[string, string][]> = fc.oneof(
  { weight: 6, arbitrary: fc.constant<[string, string][]>([]) },
  {
    weight: 1,
    arbitrary: fc.array(
      fc.constantFrom<[string, string]>(
        ['Accept', 'application/json'],
        ['Accept', 'text/html'],
        ['Accept', 'application/x-ndjson'],
        ['Accept', 'text/csv'],
        ['Accept', ',;q=,'],
        ['Accept-Encoding', 'gzip'],
        ['If-None-Match', '"1"'],
        ['Range', 'bytes=0-1'],
        ['X-Request-Id', 'a b'],
        ['X-Request-Id', 'x'.repeat(200)],
        ['X-Forwarded-For', '10.0.0.1, evil'],
        ['X-HTTP-Method-Override', 'DELETE'],
        ['User-Agent', 'ä\u00ff'.repeat(300)],
        ['Cookie', 'a=b; __Host-nmg_sid=x'],
        ['Origin', 'https://evil.example'],
        ['Traceparent', '00-0-0-00'],
        ['X-Filler', 'x'.repeat(3_000)],
      ),
      { maxLength: 3 },
    ),
  },
);

type Body = Readonly<{ type: [string, string][]; text: string | null }>;

const MALFORMED = [
  '',
  '{',
  '{"name":"x"',
  "{'a':1}",
  '{}{}',
  'NaN',
  'null',
  '[]',
  '"text"',
  '\ufeff\ufeff{}',
  '{"__proto__":{}}',
  '{"a":1e400}',
  `{"name":${'9'.repeat(400)}}`,
  '['.repeat(5_000),
  `${'{"a":'.repeat(5_000)}1${'}'.repeat(5_000)}`,
  `"${'x'.repeat(262_144)}"`,
];
const TYPES = [
  'text/plain',
  'application/xml',
  'application/json; charset=utf-16',
  '',
  'json',
  'multipart/form-data; boundary=x',
];

function bodiesOf(
  source: { document: Document; hints: Hints },
  operation: Operation,
): fc.Arbitrary<Body> {
  const content: Record<string, { schema: Schema }> = operation.spec['requestBody']?.content ?? {};
  const none: Body = { type: [], text: null };
  const stray: Body = { type: [['Content-Type', 'application/json']], text: '{"surprise":1}' };
  if (Object.keys(content).length === 0) {
    const noise = fc.constant(stray);
    return fc.oneof(
      { weight: 9, arbitrary: fc.constant(none) },
      { weight: operation.method === 'get' ? 0 : 1, arbitrary: noise },
    );
  }
  const [type = '', { schema = {} } = {}] = Object.entries(content)[0] ?? [];
  const plain = plainPlan(operation).body ?? '';
  const isMail = type === 'message/rfc822';
  const texts = fc.oneof(
    { weight: 2, arbitrary: fc.constant(plain) },
    { weight: isMail ? 0 : 4, arbitrary: valid(source, schema).map(toJson) },
    { weight: isMail ? 0 : 4, arbitrary: spoilt(source, schema).map(toJson) },
    { weight: isMail ? 4 : 0, arbitrary: fc.constantFrom(...ODD_TEXT).map((text) => plain + text) },
    { weight: 1, arbitrary: fc.constantFrom(...MALFORMED) },
  );
  const types = fc.oneof(
    { weight: 14, arbitrary: fc.constantFrom(...Object.keys(content)) },
    { weight: 1, arbitrary: fc.constantFrom(...TYPES) },
  );
  const sent = fc
    .tuple(types, texts)
    .map(([name, text]): Body => ({ type: [['Content-Type', name]], text }));
  return fc.oneof({ weight: 9, arbitrary: sent }, { weight: 1, arbitrary: fc.constant(none) });
}

const toJson = (value: unknown): string => JSON.stringify(value) ?? 'null';
