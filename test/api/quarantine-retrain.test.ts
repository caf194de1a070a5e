import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { actOn, aMail, held, historyOf } from '../support/mail.ts';
import { factsSince, headOf } from '../support/recorded.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';

const PASSWORD = 'a controller password';
let sink: SmtpSink;
let controller: Server;
/** What the controller answers to the next message. */
let answer: (response: ServerResponse) => unknown;
const learned: { url: string; password: unknown; body: string }[] = [];
/** With a controller, and without. */
let t: TestGateway;
let bare: TestGateway;

beforeAll(async () => {
  sink = await startSmtpSink();
  controller = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const { url = '', headers } = request;
    learned.push({ url, password: headers['password'], body: Buffer.concat(chunks).toString() });
    answer(response);
  });
  controller.listen(0, '127.0.0.1');
  await once(controller, 'listening');
  const url = `http://127.0.0.1:${(controller.address() as AddressInfo).port}`;
  t = await startTestGateway({ config: { rspamd: { url, password: PASSWORD } } });
  bare = await startTestGateway();
  await t.createDomain('example.com', { backend_servers: [`127.0.0.1:${sink.port}`] });
});
afterAll(async () => {
  await t.close();
  await bare.close();
  await sink.stop();
});

const typesOf = async (g: TestGateway, id: string) =>
  (await historyOf(g, id)).map(({ type }) => type.replace('quarantine.', ''));

describe('POST …/retrain', () => {
  const retrain = (g: TestGateway, id: string, kind = 'spam') =>
    actOn(g, id, 'retrain', { body: { class: kind } });
  const status =
    (code: number, text = '{"error":"already learned"}') =>
    (response: ServerResponse) =>
      response.writeHead(code).end(text);

  it.each<[string, string, (response: ServerResponse) => unknown]>([
    ['200', 'learned', status(200)],
    ['208', 'already_known', status(208)],
    ['204', 'refused', status(204, '')],
    ['404', 'unavailable', status(404)],
    ['500', 'unavailable', status(500, '{"success":true}')],
    ['a cut connection', 'unavailable', (response) => response.destroy()],
    ['200 and garbage', 'learned', (response) => response.end('\0<html>')],
  ])('the controller’s %s is %s', async (_, outcome, answered) => {
    answer = answered;
    const { id } = await held(t, { raw: aMail('taught', 'byte for byte\r\n.\r\n') });
    const reply = await retrain(t, id, 'ham');
    expect([reply.status, reply.body.data]).toEqual([200, { outcome }]);
    expect(learned.at(-1)).toEqual({
      url: '/learnham',
      password: PASSWORD,
      body: aMail('taught', 'byte for byte\r\n.\r\n'),
    });
    const [, asked, ended] = await historyOf(t, id);
    expect(asked).toMatchObject({ type: 'quarantine.retrain_requested', data: { class: 'ham' } });
    const isLearned = outcome === 'learned' || outcome === 'already_known';
    expect(ended.type).toBe(`quarantine.${isLearned ? 'retrained' : 'retrain_failed'}`);
    expect(ended.data).toMatchObject({ class: 'ham', outcome });
    expect((await t.send('GET', `/mail/quarantine/messages/${id}`)).body.data.state).toBe('held');
  });

  it('records the outcome as what came of the request', async () => {
    answer = status(200);
    const { id } = await held(t);
    await actOn(t, id, 'release');
    const before = await headOf(t);
    await retrain(t, id, 'ham');
    const [asked, ended] = await factsSince(t, before);
    expect(ended).toMatchObject({
      actor: { type: 'system' },
      correlation_id: asked?.correlation_id,
      causation_id: asked?.event_id,
    });
  });

  it('is unavailable without a controller', async () => {
    const { id } = await held(bare);
    expect((await retrain(bare, id)).body.data).toEqual({ outcome: 'unavailable' });
    const [, , ended] = await historyOf(bare, id);
    expect(ended.data).toEqual({ class: 'spam', outcome: 'unavailable', status: null });
  });

  it('is done as often as it is asked for, each with its own outcome', async () => {
    const { id } = await held(t);
    answer = status(200);
    expect((await retrain(t, id)).body.data.outcome).toBe('learned');
    answer = status(208);
    expect((await retrain(t, id)).body.data.outcome).toBe('already_known');
    const codes = [204, 208, 200];
    answer = (response) => status(codes.pop() ?? 500)(response);
    const replies = await Promise.all([retrain(t, id), retrain(t, id), retrain(t, id)]);
    expect(replies.map(({ body }) => body.data.outcome).sort()).toEqual([
      'already_known',
      'learned',
      'refused',
    ]);
    expect((await typesOf(t, id)).filter((type) => type.startsWith('retrain'))).toHaveLength(10);
  });

  it('tells a bulk job what came of its own request, whatever else was asked for meanwhile', async () => {
    const { id } = await held(t);
    const waiting: ServerResponse[] = [];
    answer = (response) => waiting.push(response);
    const body = { action: 'retrain', class: 'spam', ids: [id] };
    const { job_id: job } = (await t.send('POST', '/mail/quarantine/bulk', { body })).body.data;
    await expect.poll(() => waiting.length).toBe(1);
    const single = retrain(t, id, 'ham');
    const asked = ['retrain_requested', 'retrain_requested'];
    await expect.poll(() => typesOf(t, id)).toEqual(['added', ...asked]);
    answer = status(200);
    for (const response of waiting) status(204, '')(response);
    expect((await single).body.data.outcome).toBe('learned');
    const jobNow = async () => (await t.send('GET', `/mail/quarantine/bulk/${job}`)).body.data;
    await expect.poll(async () => (await jobNow()).state).toBe('completed');
    expect((await jobNow()).items).toEqual([{ id, outcome: 'refused', error: null }]);
  });

  it('200 after a release, 410 after a discard', async () => {
    answer = status(200);
    const [one, two] = [await held(t), await held(t)];
    await actOn(t, one.id, 'release');
    expect((await retrain(t, one.id, 'ham')).body.data.outcome).toBe('learned');
    await actOn(t, two.id, 'discard');
    const reply = await retrain(t, two.id);
    expect([reply.status, reply.body.error]).toEqual([410, 'content_gone']);
    expect(await typesOf(t, two.id)).not.toContain('retrain_requested');
  });

  it.each([{}, { class: 'eggs' }, { class: 'spam', surprise: 1 }])('400: %j', async (body) => {
    const { id } = await held(t);
    expect((await actOn(t, id, 'retrain', { body })).status).toBe(400);
  });

  it('is unavailable once the controller is gone', async () => {
    controller.closeAllConnections();
    controller.close();
    const { id } = await held(t);
    expect((await retrain(t, id)).body.data).toEqual({ outcome: 'unavailable' });
  });
});
