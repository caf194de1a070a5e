/** A change of a document that breaks somebody, and how the gate names it. */
type Mutation = readonly [name: string, change: (d: any) => void, told: RegExp];

const operation = (d: any, method: string, path: string) => d.paths[`/api/v1${path}`][method];
const bodyOf = (d: any, method: string, path: string) =>
  operation(d, method, path).requestBody.content['application/json'].schema;
const parameter = (d: any, path: string, name: string) =>
  operation(d, 'get', path).parameters.find((p: any) => p.name === name);
const domain = (d: any) => d.components.schemas.MailDomain;
const added = (d: any) => d.components.schemas.QuarantineAddedPayload;
const without = (list: string[], value: string) => list.filter((one) => one !== value);

const OPERATIONS: Mutation[] = [
  ['a path that is gone', (d) => delete d.paths['/api/v1/domains'], /^\/api\/v1\/domains: was rem/],
  [
    'a path of another name',
    (d) => {
      d.paths['/api/v1/mail-domains'] = d.paths['/api/v1/domains'];
      delete d.paths['/api/v1/domains'];
    },
    /^\/api\/v1\/domains: was removed/,
  ],
  [
    'an operation that is gone',
    (d) => delete d.paths['/api/v1/domains/{id}'].delete,
    /^DELETE \/api\/v1\/domains\/\{id\}: was removed/,
  ],
  [
    'an operationId of another name',
    (d) => {
      operation(d, 'get', '/domains').operationId = 'domains';
    },
    /operationId is domains, was listMailDomains/,
  ],
  [
    'a status that is gone',
    (d) => delete operation(d, 'get', '/domains').responses['406'],
    /GET \/api\/v1\/domains 406: was removed/,
  ],
  [
    'a media type of an answer that is gone',
    (d) =>
      delete operation(d, 'get', '/audit/logs').responses['200'].content['application/x-ndjson'],
    /200 application\/x-ndjson: was removed/,
  ],
  [
    'a media type of a body that is gone',
    (d) =>
      delete operation(d, 'patch', '/domains/{id}').requestBody.content[
        'application/merge-patch+json'
      ],
    /body application\/merge-patch\+json: was removed/,
  ],
  [
    'a header of an answer that is gone',
    (d) => delete operation(d, 'get', '/audit/logs').responses['200'].headers['X-Has-More'],
    /200 header X-Has-More: was removed/,
  ],
  [
    'an error code that is gone altogether',
    (d) => d.components.schemas.Refusal.properties.error.enum.shift(),
    /error: the value "bad_request" was removed/,
  ],
  [
    'an error code that one operation has no more',
    (d) => {
      operation(d, 'get', '/domains').responses['400'].description = '`bad_request`';
    },
    /GET \/api\/v1\/domains 400: the error code key_in_url was removed/,
  ],
  [
    'a credential asked for where none was',
    (d) => {
      d.paths['/livez'].get.security = [{ ApiKey: [] }];
    },
    /GET \/livez: cannot be called with no credentials/,
  ],
  [
    'a credential that is not taken any more',
    (d) => operation(d, 'post', '/mail/quarantine').security.pop(),
    /cannot be called with IngestPassword/,
  ],
  [
    'two credentials asked for instead of one',
    (d) => {
      operation(d, 'get', '/domains').security = [{ ApiKey: [], IngestPassword: [] }];
    },
    /GET \/api\/v1\/domains: cannot be called with ApiKey/,
  ],
  [
    'a key that goes into another header',
    (d) => {
      d.components.securitySchemes.ApiKey.name = 'X-Key';
    },
    /security scheme ApiKey: is another/,
  ],
];

const REQUESTS: Mutation[] = [
  [
    'a parameter that is gone',
    (d) => {
      const list = operation(d, 'get', '/audit/logs');
      list.parameters = list.parameters.filter((p: any) => p.name !== 'form');
    },
    /query form: was removed/,
  ],
  [
    'a parameter that is new, and required',
    (d) =>
      operation(d, 'get', '/domains').parameters.push({
        name: 'tenant',
        in: 'query',
        required: true,
        schema: { type: 'string' },
      }),
    /query tenant: is new, and required/,
  ],
  [
    'a parameter that became required',
    (d) => {
      parameter(d, '/audit/logs', 'from').required = true;
    },
    /query from: became required/,
  ],
  [
    'a header that became required',
    (d) => {
      const { parameters } = operation(d, 'post', '/domains');
      parameters.find((p: any) => p.name === 'Idempotency-Key').required = true;
    },
    /header Idempotency-Key: became required/,
  ],
  [
    'a smaller maximum',
    (d) => {
      parameter(d, '/domains', 'limit').schema.maximum = 500;
    },
    /query limit: maximum was 1000 and is 500/,
  ],
  [
    'a larger minimum',
    (d) => {
      parameter(d, '/domains', 'limit').schema.minimum = 2;
    },
    /query limit: minimum was 1 and is 2/,
  ],
  [
    'another default',
    (d) => {
      parameter(d, '/domains', 'limit').schema.default = 50;
    },
    /query limit: default was 100 and is 50/,
  ],
  [
    'a pattern where none was',
    (d) => {
      parameter(d, '/audit/logs', 'actor').schema.pattern = '^api_key:';
    },
    /query actor: pattern was absent/,
  ],
  [
    'an enum where none was',
    (d) => {
      parameter(d, '/audit/logs', 'actor_type').schema.enum = ['api_key'];
    },
    /query actor_type: takes only \["api_key"\]/,
  ],
  [
    'a member of a body that became required',
    (d) => bodyOf(d, 'post', '/domains').required.push('tenant_id'),
    /body application\/json.tenant_id: became required/,
  ],
  [
    'a member of a body that is gone',
    (d) => delete bodyOf(d, 'post', '/domains').properties.tenant_id,
    /body application\/json.tenant_id: was removed/,
  ],
  [
    'a value of a body that is not taken any more',
    (d) => bodyOf(d, 'post', '/domains').properties.direction.enum.pop(),
    /direction: the value "outbound" was removed/,
  ],
  [
    'null that is not taken any more',
    (d) => {
      bodyOf(d, 'post', '/domains').properties.tenant_id.type = 'string';
    },
    /tenant_id: null is not taken/,
  ],
  [
    'another type of a member of a body',
    (d) => {
      bodyOf(d, 'post', '/domains').properties.dkim_active.type = 'string';
    },
    /dkim_active: boolean is not taken/,
  ],
  [
    'fewer items of a list in a body',
    (d) => {
      bodyOf(d, 'post', '/domains').properties.backend_servers.maxItems = 1;
    },
    /backend_servers: maxItems was \d+ and is 1/,
  ],
  [
    'a body that became required',
    (d) => {
      operation(d, 'post', '/auth/api-keys/{id}/revoke').requestBody.required = true;
    },
    /revoke body: became required/,
  ],
  [
    'a body where none was',
    (d) => {
      const content = { 'application/json': { schema: { type: 'object' } } };
      operation(d, 'delete', '/domains/{id}').requestBody = { required: true, content };
    },
    /DELETE .* body: is new, and required/,
  ],
  [
    'a branch of a union that is gone',
    (d) => {
      const { anyOf } = bodyOf(d, 'post', '/webhooks').properties.start;
      anyOf.shift();
    },
    /start: /,
  ],
];

const ANSWERS: Mutation[] = [
  [
    'a member that may be absent now',
    (d) => {
      domain(d).required = without(domain(d).required, 'tenant_id');
    },
    /data.tenant_id: is no longer always there/,
  ],
  [
    'a member that is gone',
    (d) => {
      domain(d).required = without(domain(d).required, 'tenant_id');
      delete domain(d).properties.tenant_id;
    },
    /data.tenant_id: was removed/,
  ],
  [
    'a member that may be null now',
    (d) => {
      domain(d).properties.created_at.type = ['string', 'null'];
    },
    /data.created_at: may be null/,
  ],
  [
    'another type',
    (d) => {
      domain(d).properties.id = { type: 'string' };
    },
    /data.id: may be string/,
  ],
  [
    'another format',
    (d) => {
      domain(d).properties.created_at.format = 'date';
    },
    /created_at: format was "date-time" and is "date"/,
  ],
  [
    'a value of another name',
    (d) => {
      domain(d).properties.direction.enum = ['inbound', 'outward'];
    },
    /data.direction: the value "outbound" was removed/,
  ],
  [
    'any text where it was one of some',
    (d) => delete domain(d).properties.direction.enum,
    /data.direction: may be any value/,
  ],
  [
    'a member that is gone from one part of an allOf',
    (d) => {
      delete d.components.schemas.NewApiKey.allOf[1].properties.key;
    },
    /POST \/api\/v1\/auth\/api-keys 201 application\/json.data.key: was removed/,
  ],
  [
    'an envelope without its message',
    (d) => {
      const { schema } = operation(d, 'get', '/domains').responses['200'].content[
        'application/json'
      ];
      schema.required = without(schema.required, 'message');
    },
    /application\/json.message: is no longer always there/,
  ],
];

const WEBHOOKS: Mutation[] = [
  [
    'a webhook that is gone',
    (d) => delete d.webhooks['quarantine.added'],
    /^quarantine.added: was removed/,
  ],
  [
    'a member of a payload that may be absent',
    (d) => {
      const { data } = added(d).properties;
      data.required = without(data.required, 'score');
    },
    /POST quarantine.added body application\/json.data.score: is no longer always there/,
  ],
  [
    'a member of a payload that is gone',
    (d) => {
      const { data } = added(d).properties;
      data.required = without(data.required, 'score');
      delete data.properties.score;
    },
    /quarantine.added body application\/json.data.score: was removed/,
  ],
  [
    'a shared definition of another shape',
    (d) => {
      d.components.schemas.WebhookSequence = { type: 'string' };
    },
    /quarantine.added body application\/json.sequence: may be string/,
  ],
  [
    'a header of a delivery that may be absent',
    (d) => {
      d.components.parameters.WebhookId.required = false;
    },
    /quarantine.added header webhook-id: is no longer always there/,
  ],
  [
    'an answer of a receiver that is not known any more',
    (d) => delete d.webhooks['quarantine.added'].post.responses['410'],
    /POST quarantine.added 410: was removed/,
  ],
  [
    'what a receiver may say in a header',
    (d) => {
      d.components.responses.WebhookTaken.headers['webhook-delivery'].schema.enum = ['stop'];
    },
    /2XX header webhook-delivery: the value "disable" was removed/,
  ],
];

export const MUTATIONS: readonly Mutation[] = [...OPERATIONS, ...REQUESTS, ...ANSWERS, ...WEBHOOKS];

/** A change that breaks nobody, and of what it gives notice. */
type Addition = readonly [name: string, change: (d: any) => void, notices: readonly RegExp[]];

export const ADDITIONS: readonly Addition[] = [
  ['nothing', () => undefined, []],
  [
    'a path',
    (d) => {
      d.paths['/api/v1/mail-domains'] = d.paths['/api/v1/domains'];
    },
    [],
  ],
  [
    'a parameter that may be left out',
    (d) =>
      operation(d, 'get', '/domains').parameters.push({
        name: 'tenant',
        in: 'query',
        schema: { type: 'string' },
      }),
    [],
  ],
  [
    'a larger maximum',
    (d) => {
      parameter(d, '/domains', 'limit').schema.maximum = 5_000;
    },
    [],
  ],
  [
    'a member of a body that may be left out',
    (d) => {
      bodyOf(d, 'post', '/domains').properties.note = { type: 'string' };
    },
    [],
  ],
  [
    'null where a value was taken',
    (d) => {
      bodyOf(d, 'post', '/domains').properties.direction.type = ['string', 'null'];
      bodyOf(d, 'post', '/domains').properties.direction.enum.push(null);
    },
    [],
  ],
  [
    'a member of an answer',
    (d) => {
      domain(d).properties.note = { type: 'string' };
      domain(d).required.push('note');
    },
    [],
  ],
  [
    'a value where null was too',
    (d) => {
      domain(d).properties.tenant_id.type = 'string';
    },
    [],
  ],
  ['a way in', (d) => operation(d, 'get', '/domains').security.push({ IngestPassword: [] }), []],
  [
    'an example and words',
    (d) => {
      domain(d).description = 'A domain.';
      operation(d, 'get', '/domains').summary = 'Lists.';
    },
    [],
  ],
  [
    'a value in an answer, with a notice',
    (d) => domain(d).properties.direction.enum.push('both'),
    [/GET \/api\/v1\/domains 200 application\/json.data\[\].direction: the value "both" is new/],
  ],
  [
    'a status, with a notice',
    (d) => {
      operation(d, 'get', '/domains').responses['410'] = { description: '`erased`' };
    },
    [/GET \/api\/v1\/domains 410: is a new status/],
  ],
  [
    'a member of a payload, with a notice',
    (d) => {
      added(d).properties.data.properties.note = { type: 'string' };
    },
    [/quarantine.added body application\/json.data.note: is new in a closed object/],
  ],
];
