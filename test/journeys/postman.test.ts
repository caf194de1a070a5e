import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Server } from 'node:net';
import newman from 'newman';
import converter from 'openapi-to-postmanv2';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { held } from '../support/mail.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';
import { LOOPBACK } from '../support/webhook-receiver.ts';

const contract = readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8');

/** What an integrator does first: import the contract into Postman, and press run. */
describe('the contract in Postman', () => {
  let t: TestGateway;
  let sink: SmtpSink;
  let silent: Server;
  beforeAll(async () => {
    sink = await startSmtpSink();
    silent = createServer(() => undefined).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    t = await startTestGateway({ config: { smtpRelay: `127.0.0.1:${sink.port}`, ...LOOPBACK } });
    // The examples in the contract speak of keys 2 to 5, mail domains 1 and 2 and sender filter 1.
    for (let n = 2; n <= 5; n += 1) await t.createKey();
    for (let n = 1; n <= 2; n += 1) await t.createDomain();
    await t.createDomain('sunk.example', { backend_servers: [`127.0.0.1:${sink.port}`] });
    const { port } = silent.address() as AddressInfo;
    await t.createDomain('silent.example', { backend_servers: [`127.0.0.1:${port}`] });
    const filter = { kind: 'allow', scope: 'global', sender: 'a@example.org' };
    await t.send('POST', '/sender-filters', { body: filter });
  });
  afterAll(async () => {
    await t.close();
    await sink.stop();
    silent.close();
  });

  it('converts whole, and every request is answered as its example promises', async () => {
    const collection = await convert();
    for (const item of itemsOf(collection)) await nameReal(t, item);
    const summary = await run(collection, t);
    // newman has no types of its own.
    const answers = (summary.run.executions as any[]).map(({ item, request, response }) => ({
      name: item.name,
      request: `${request.method} ${request.url.getPath()}`,
      status: response?.code,
    }));
    // What receivers are told stands under `webhooks`, and is no request to this server.
    const operations = contract.split('\nwebhooks:')[0]?.match(/operationId:/g)?.length;
    expect(answers).toHaveLength(operations ?? 0);
    expect(answers.filter(({ status }) => status === undefined || status >= 300)).toEqual([]);
    expect(summary.run.failures).toEqual([]);
  });
});

type Variable = { key: string; value: string };
type Item = {
  item?: Item[];
  request?: { method: string; url: { path: string[]; variable: Variable[] } };
};

const itemsOf = ({ item = [], ...self }: Item): Item[] =>
  self.request === undefined ? item.flatMap(itemsOf) : [self];

/** Ids that only a running server can give: each request gets a message, or a job, of its own. */
async function nameReal(t: TestGateway, { request }: Item): Promise<void> {
  const variables = new Map(request?.url.variable.map((variable) => [variable.key, variable]));
  const set = (key: string, value: string) => {
    const variable = variables.get(key);
    if (variable !== undefined) variable.value = value;
  };
  if (variables.has('job_id')) {
    const { id } = await held(t, { to: 'you@silent.example' });
    const body = { action: 'release', ids: [id] };
    const job = await t.send('POST', '/mail/quarantine/bulk', { body });
    set('job_id', job.body.data.job_id);
  }
  if (request?.url.path.includes('webhooks') === true && variables.has('id')) {
    const made = await webhookOf(t);
    for (const [key, value] of Object.entries(made)) set(key, value);
    return;
  }
  if (request?.url.path.includes('quarantine') !== true) return;
  if (!variables.has('id') && !variables.has('queue_id')) return;
  const item = await held(t, { to: 'you@sunk.example' });
  set('id', item.id);
  set('node_id', item.node_id);
  set('queue_id', item.queue_id);
}

/** A webhook to itself, an event of it, and a replay. */
async function webhookOf(t: TestGateway): Promise<Record<string, string>> {
  const body = { url: `${t.url}/livez`, event_types: ['*'], start: 'earliest' };
  const { id } = (await t.send('POST', '/webhooks', { body })).body.data;
  const replay = { from: 'earliest', reason: 'they ask' };
  const made = await t.send('POST', `/webhooks/${id}/replays`, { body: replay });
  const [event] = (await t.send('GET', '/audit/logs?action=mail_domain.created&limit=1')).body.data;
  return { id: String(id), event_id: event.event_id, replay_id: made.body.data.id };
}

function convert(): Promise<Item> {
  const options = {
    requestParametersResolution: 'Example',
    enableOptionalParameters: false,
    folderStrategy: 'Tags',
  };
  return new Promise((resolve, reject) => {
    converter.convert(
      { type: 'string', data: contract },
      options,
      (error: unknown, result: any) => {
        if (error || !result.result) reject(error ?? new Error(result.reason));
        else resolve(result.output[0].data);
      },
    );
  });
}

function run(collection: object, t: TestGateway): Promise<any> {
  const withKey = {
    ...collection,
    auth: {
      type: 'apikey',
      apikey: [
        { key: 'key', value: 'X-API-Key' },
        { key: 'value', value: t.bootstrapKey },
        { key: 'in', value: 'header' },
      ],
    },
  };
  const options = {
    collection: JSON.parse(JSON.stringify(withKey).replaceAll('{{apiKey}}', t.bootstrapKey)),
    envVar: [{ key: 'baseUrl', value: t.url }],
    reporters: [],
  };
  return new Promise((resolve, reject) => {
    newman.run(options as any, (error: unknown, summary: unknown) => {
      if (error) reject(error);
      else resolve(summary);
    });
  });
}
