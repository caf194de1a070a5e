import { once } from 'node:events';
import http from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { gunzipSync } from 'node:zlib';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { held } from '../support/mail.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';
import type { Answered, Operation } from './answers.ts';
import type { Plan } from './fuzz-requests.ts';

export const INGEST_PASSWORD = 'a-password-for-ingest';

/** Who may send: each scope, wide and narrowed, and those who have no key. */
export const CALLERS = [
  'nobody',
  'a false key',
  'read-only',
  'read-only, narrowed',
  'quarantine-only',
  'quarantine-only, narrowed',
  'domain-admin',
  'full-admin, narrowed',
  'full-admin',
] as const;
export type Caller = (typeof CALLERS)[number] | 'ingest';

type Sent = Readonly<{ answer: Answered; curl: string }>;

/** A gateway with something of everything in it, which is put back in its place when a request has taken it away. */
export type World = Readonly<{
  t: TestGateway;
  send: (operation: Operation, caller: Caller, plan: Plan) => Promise<Sent>;
  close: () => Promise<void>;
}>;

type Key = { id: number; key: string };
type State = {
  readonly t: TestGateway;
  readonly sink: SmtpSink;
  readonly receiver: Receiver;
  readonly keys: Map<Caller, Key>;
  /** What `{{name}}` stands for. */
  readonly names: Map<string, string>;
  fresh: number;
  jobs: number;
};

/** Jobs that wait for a server that says nothing: each of them keeps one connection open. */
const JOBS_MAX = 8;

export async function makeWorld(): Promise<World> {
  const sink = await startSmtpSink();
  const receiver = await startReceiver();
  const silent = createServer(() => undefined).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const t = await startTestGateway({
    config: {
      ...LOOPBACK,
      smtpRelay: `127.0.0.1:${sink.port}`,
      ingestPassword: INGEST_PASSWORD,
    },
  });
  const state: State = { t, sink, receiver, keys: new Map(), names: new Map(), fresh: 0, jobs: 0 };
  state.names.set('sink', `127.0.0.1:${sink.port}`);
  state.names.set('receiver', receiver.url);
  await t.createDomain('silent.example', {
    backend_servers: [`127.0.0.1:${(silent.address() as AddressInfo).port}`],
  });
  state.names.set('type', 'mail_domain.created');
  state.names.set('position', '1');
  await makeDomain(state);
  for (const make of Object.values(MAKERS)) await make(state);
  return {
    t,
    send: (operation, caller, plan) => send(state, operation, { caller, plan }),
    async close() {
      await t.close();
      await receiver.close();
      silent.close();
      await sink.stop();
    },
  };
}

async function made(t: TestGateway, path: string, body: object): Promise<any> {
  const reply = await t.send('POST', path, { body });
  if (reply.status >= 300) throw new Error(`POST ${path}: ${reply.status} ${reply.text}`);
  return reply.body.data;
}

const next = (state: State): string => {
  state.fresh += 1;
  return `f${state.fresh}`;
};

/** The mail domain that keys are narrowed to and mail is for, and all that goes with it. */
async function makeDomain(state: State): Promise<void> {
  const backend = { backend_servers: [`127.0.0.1:${state.sink.port}`] };
  const { id, name } = await state.t.createDomain(`${next(state)}.world.example`, backend);
  state.names.set('domain', String(id));
  state.names.set('domain_name', name);
  for (const caller of CALLERS.slice(2)) await makeKey(state, caller);
}

async function makeKey(state: State, caller: Caller): Promise<void> {
  const [scope = '', narrowed] = caller.split(', ');
  const isNarrowed = narrowed !== undefined || scope === 'domain-admin';
  const mail_domain = isNarrowed ? { mail_domain: state.names.get('domain_name') } : {};
  state.keys.set(caller, await state.t.createKey({ scope, ...mail_domain }));
}

/** Each makes something anew, under the names that stand for it. */
const MAKERS: Readonly<Record<string, (state: State) => Promise<void>>> = {
  async key({ t, names }) {
    names.set('key', String((await t.createKey({ mail_domain: names.get('domain_name') })).id));
  },
  async victim(state) {
    const { id, name } = await state.t.createDomain(`${next(state)}.victim.example`);
    state.names.set('victim_domain', String(id));
    state.names.set('victim_domain_name', name);
  },
  async message({ t, names }) {
    const item = await held(t, { to: `you@${names.get('domain_name')}` });
    names.set('message', item.id).set('node_id', item.node_id).set('queue_id', item.queue_id);
  },
  async filter(state) {
    const sender = `${next(state)}@sender.example`;
    const body = { kind: 'allow', scope: 'mail_domain', sender };
    const mail_domain = state.names.get('domain_name');
    const { id } = await made(state.t, '/sender-filters', { ...body, mail_domain });
    state.names.set('filter', String(id));
  },
  async webhook({ t, names, receiver }) {
    const body = { url: receiver.url, event_types: ['*'], start: 'earliest' };
    const mail_domain = names.get('domain_name');
    const { id } = await made(t, '/webhooks', { ...body, mail_domain });
    names.set('webhook', String(id));
    const replay = await made(t, `/webhooks/${id}/replays`, { from: 'earliest', reason: 'x' });
    names.set('replay_id', String(replay.id));
    const path = `/audit/logs?action=api_key.created&domain=${mail_domain}&limit=1`;
    const [line] = (await t.send('GET', path)).body.data;
    names.set('event_id', line.event_id).set('cursor', line.cursor);
  },
  async job(state) {
    const { t, names } = state;
    state.jobs += 1;
    if (state.jobs > JOBS_MAX) return;
    const { id } = await held(t, { to: 'you@silent.example' });
    const body = { action: 'release', ids: [id] };
    names.set('job_id', (await made(t, '/mail/quarantine/bulk', body)).job_id);
  },
};

/** What a success of these operations may have taken away. */
const TAKES: Readonly<Record<string, keyof typeof MAKERS>> = {
  updateApiKey: 'key',
  deleteApiKey: 'key',
  revokeApiKey: 'key',
  rotateApiKey: 'key',
  deleteMailDomain: 'victim',
  deleteSenderFilter: 'filter',
  deleteWebhook: 'webhook',
  cancelWebhookReplay: 'webhook',
  createQuarantineBulk: 'message',
  cancelQuarantineBulk: 'job',
};

async function send(
  state: State,
  operation: Operation,
  { caller, plan }: { caller: Caller; plan: Plan },
): Promise<Sent> {
  const fill = (text: string): string =>
    text.replaceAll(/\{\{(\w+)\}\}/g, (whole, name) =>
      name === 'fresh' ? next(state) : (state.names.get(name) ?? whole),
    );
  // The key that the world is made with must outlive all of it.
  const path = fill(plan.path).replace('/auth/api-keys/1', (own) =>
    /^\/api\/v1\/auth\/api-keys\/1(?!\d)/.test(plan.path) ? own.replace('/1', '/2') : own,
  );
  const headers = [...plan.headers.map(([name, value]) => [name, fill(value)] as const)];
  const body = plan.body === null ? null : fill(plan.body);
  const method = operation.method.toUpperCase();
  const answer = await exchange(state.t.url + path, method, {
    headers: [...headers, ...credentialsOf(state, caller)],
    body,
  });
  const curl = curlOf(`${method} ${state.t.url}${path}`, { caller, headers, body });
  if (answer.status < 300) await mend(state, operation, path, answer);
  return { answer, curl };
}

function credentialsOf({ keys }: State, caller: Caller): [string, string][] {
  if (caller === 'nobody') return [];
  if (caller === 'a false key') return [['X-API-Key', `nmg_${'0'.repeat(64)}`]];
  if (caller !== 'ingest') return [['X-API-Key', keys.get(caller)?.key ?? '']];
  const basic = Buffer.from(`ingest:${INGEST_PASSWORD}`).toString('base64');
  return [['Authorization', `Basic ${basic}`]];
}

async function mend(
  state: State,
  { id, path: template }: Operation,
  path: string,
  answer: Answered,
): Promise<void> {
  const { t, keys, names } = state;
  const target = /^\/api\/v1\/[a-z/-]+\/(\d+)/.exec(path)?.[1];
  const taken = TAKES[id] ?? (/\/(release|discard|reject)$/.test(template) ? 'message' : null);
  if (id === 'createWebhook') {
    // Each of them would be told of everything that happens from now on.
    await t.send('DELETE', `/webhooks/${JSON.parse(answer.text).data.id}`);
  }
  if (id === 'updateWebhook' || id === 'pauseWebhook') await MAKERS['webhook']?.(state);
  if (taken === 'key') {
    for (const [caller, key] of keys) if (String(key.id) === target) await makeKey(state, caller);
  }
  const isOwn = target === names.get('domain');
  if (id === 'deleteMailDomain' && isOwn) {
    await makeDomain(state);
    for (const make of Object.values(MAKERS)) await make(state);
  } else if (taken !== null) await MAKERS[taken]?.(state);
  if ((id === 'replaceMailDomain' || id === 'patchMailDomain') && isOwn) {
    const body = { active: true, backend_servers: [names.get('sink')] };
    await t.send('PATCH', `/domains/${target}`, { body });
  }
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 2 });
type Sending = Readonly<{ headers: readonly (readonly [string, string])[]; body: string | null }>;

/** One exchange as HTTP has it: headers may be repeated, and paths are sent as they are written. */
function exchange(url: string, method: string, { headers, body }: Sending): Promise<Answered> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(url);
    const path = url.slice(url.indexOf('/', 'http://'.length));
    const request = http.request({ agent, hostname, port, path, method }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const bytes = Buffer.concat(chunks);
        const isPacked = response.headers['content-encoding'] === 'gzip';
        const text = (isPacked ? gunzipSync(bytes) : bytes).toString('utf8');
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text });
      });
    });
    const names = new Set(headers.map(([name]) => name));
    for (const name of names) {
      request.setHeader(
        name,
        headers.filter((header) => header[0] === name).map(([, value]) => value),
      );
    }
    // Node leaves it out of a DELETE, and the body would be taken for the next request.
    if (body !== null) request.setHeader('Content-Length', Buffer.byteLength(body));
    request.on('error', reject);
    request.end(body ?? undefined);
  });
}

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** The request as one can type it; the key by its scope, since each run has keys of its own. */
function curlOf(
  target: string,
  { caller, headers, body }: Sending & Readonly<{ caller: Caller }>,
): string {
  const [method = '', url = ''] = target.split(' ');
  const options = headers.map(([name, value]) => `-H ${quote(`${name}: ${value}`)}`);
  if (caller === 'ingest') options.push('-u ingest:PASSWORD');
  else if (caller !== 'nobody') options.push(`-H ${quote(`X-API-Key: KEY (${caller})`)}`);
  if (body !== null) options.push(`--data-binary ${quote(body.slice(0, 2_000))}`);
  return ['curl', '-i', '-X', method, quote(url), ...options].join(' ');
}
