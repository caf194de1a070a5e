import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import https from 'node:https';
import net, { type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  attemptsOf,
  happen,
  notesOf,
  statsOf,
  subscribeTo,
  viewOf,
} from '../support/deliveries.ts';
import { startTestGateway, testClock } from '../support/gateway.ts';
import { LOOPBACK } from '../support/webhook-receiver.ts';
import { caughtUp, eventually } from '../support/webhooks.ts';

describe('a target that was allowed once and is no more', () => {
  let canary: net.Server;
  let port: number;
  let connections = 0;
  beforeAll(async () => {
    canary = net.createServer((socket) => {
      connections += 1;
      socket.destroy();
    });
    await new Promise<void>((resolve) => canary.listen(0, '127.0.0.1', resolve));
    port = (canary.address() as AddressInfo).port;
  });
  afterAll(() => {
    canary.close();
  });

  it.each([
    ['http', '127.0.0.1'],
    ['http', '2130706433'],
    ['http', '[::ffff:127.0.0.1]'],
    ['http', 'localhost'],
    ['https', '127.0.0.1'],
    ['https', '0x7f.1'],
    ['https', '[::ffff:7f00:1]'],
    ['https', 'localhost'],
  ])('gets not one connection at delivery: %s://%s', async (scheme, host) => {
    let t = await startTestGateway({ config: LOOPBACK });
    const one = await subscribeTo(t, { url: `${scheme}://${host}:${port}/` }, { enabled: false });
    const { database, bootstrapKey } = t;
    const masterKey = t.gateway.context.config.masterKey ?? Buffer.alloc(0);
    await t.gateway.stop();
    connections = 0;
    // The same database, without the operator's leave for loopback.
    t = await startTestGateway({
      config: { webhooks: { allowCidrs: [], allowHttp: true } },
      ...{ database, bootstrapKey, masterKey },
    });
    try {
      const [id = ''] = await happen(t, 3);
      await t.send('POST', `/webhooks/${one.id}/resume`);
      await eventually(async () =>
        expect(await viewOf(t, one)).toMatchObject({
          status: 'disabled',
          disabled_cause: 'config',
        }),
      );
      await eventually(async () =>
        expect(await attemptsOf(t, one, id)).toMatchObject([{ outcome: 'blocked', status: null }]),
      );
      expect(await notesOf(t, one, 'webhook.disabled')).toMatchObject([
        { data: { cause: 'config' } },
      ]);
      const ping = await t.send('POST', `/webhooks/${one.id}/ping`);
      expect(ping.body.data).toMatchObject({ delivered: false, outcome: 'blocked' });
      expect(connections).toBe(0);
      // Nothing of it is lost.
      expect((await statsOf(t, one)).oldest_waiting_at).not.toBeNull();
    } finally {
      await t.close();
    }
  });
});

describe('an endpoint whose certificate does not verify', () => {
  let dir: string;
  let server: https.Server;
  let requests = 0;
  let port: number;
  let certificate: string;
  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'mailguard-hook-tls-'));
    const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')];
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'],
        ...['-keyout', key, '-out', cert, '-days', '2', '-subj', '/CN=hook.test'],
        ...['-addext', 'subjectAltName=IP:127.0.0.1'],
      ],
      { stdio: 'ignore' },
    );
    certificate = readFileSync(cert, 'utf8');
    server = https.createServer(
      { key: readFileSync(key), cert: certificate },
      (request, response) => {
        requests += 1;
        request.resume();
        response.end();
      },
    );
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    port = (server.address() as AddressInfo).port;
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
    rmSync(dir, { recursive: true, force: true });
  });

  it('is sent nothing, is told of at once, and gets everything once it is mended', async () => {
    const clock = testClock();
    let t = await startTestGateway({ config: LOOPBACK, clock });
    const one = await subscribeTo(t, { url: `https://127.0.0.1:${port}/hook` });
    const ids = await happen(t, 20);
    await eventually(async () => expect((await statsOf(t, one)).breaker).toBe('open'));
    await eventually(async () =>
      expect(await attemptsOf(t, one, ids[0] ?? '')).toMatchObject([{ outcome: 'certificate' }]),
    );
    await eventually(async () =>
      expect(await notesOf(t, one, 'webhook.failing')).toMatchObject([
        { data: { hours: 0, cause: 'certificate' } },
      ]),
    );
    expect(await viewOf(t, one)).toMatchObject({ status: 'active' });
    const ping = await t.send('POST', `/webhooks/${one.id}/ping`);
    expect(ping.body.data).toMatchObject({
      delivered: false,
      outcome: 'certificate',
      status: null,
    });
    expect(requests).toBe(0);
    const { database, bootstrapKey } = t;
    const masterKey = t.gateway.context.config.masterKey ?? Buffer.alloc(0);
    await t.gateway.stop();
    t = await startTestGateway({
      ...{ config: LOOPBACK, clock, database, bootstrapKey, masterKey },
      webhooks: { ca: [certificate] },
    });
    clock.advance(60_000);
    await caughtUp(t, one.id);
    expect(requests).toBe(20);
    const pinged = await t.send('POST', `/webhooks/${one.id}/ping`);
    expect(pinged.body.data).toMatchObject({
      delivered: true,
      status: 200,
      connected_to: '127.0.0.1',
    });
    expect(pinged.body.data.tls).toMatchObject({ protocol: 'TLSv1.3' });
    await t.close();
  });
});
