import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync } from 'node:fs';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';

const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
if (!hasOpenssl) console.warn('openssl is not installed: the tests over TLS are skipped');

const directory = mkdtempSync(join(tmpdir(), 'mailguard-tls-'));

function makeCertificate(name: string): { cert: string; key: string } {
  const cert = join(directory, `${name}.pem`);
  const key = join(directory, `${name}.key`);
  execFileSync(
    'openssl',
    [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '1',
      '-subj',
      `/CN=${name}`,
      '-keyout',
      key,
      '-out',
      cert,
    ],
    { stdio: 'ignore' },
  );
  return { cert, key };
}

type Met = Readonly<{
  status: number | undefined;
  headers: object;
  protocol: string | null;
  name: string;
}>;

function get(url: string, key: string, options: https.RequestOptions = {}): Promise<Met> {
  return new Promise((resolve, reject) => {
    const headers = { 'X-API-Key': key };
    const request = https.get(
      url,
      { rejectUnauthorized: false, agent: false, headers, ...options },
      (response) => {
        const socket = response.socket as TLSSocket;
        const met = {
          status: response.statusCode,
          headers: response.headers,
          protocol: socket.getProtocol(),
          name: String(socket.getPeerCertificate().subject.CN),
        };
        response.resume().once('end', () => resolve(met));
      },
    );
    request.once('error', reject);
  });
}

describe.skipIf(!hasOpenssl)('over TLS (ASVS 12.1.1, 12.2.1, 3.4.1)', () => {
  let t: TestGateway;
  let served: { cert: string; key: string };
  beforeAll(async () => {
    served = makeCertificate('first');
    t = await startTestGateway({
      config: { tls: { certPath: served.cert, keyPath: served.key } },
    });
  });
  afterAll(() => t.close());

  it('answers, and tells browsers to stay with TLS', async () => {
    const met = await get(`${t.url}/api/v1/auth/api-keys`, t.bootstrapKey);
    expect(met).toMatchObject({ status: 200, protocol: 'TLSv1.3', name: 'first' });
    expect(met.headers).toMatchObject({
      'strict-transport-security': expect.stringMatching(/max-age=\d{8}/),
    });
  });

  it('refuses what is older than TLS 1.2', async () => {
    const old = {
      minVersion: 'TLSv1.1',
      maxVersion: 'TLSv1.1',
      ciphers: 'DEFAULT@SECLEVEL=0',
    } as const;
    await expect(get(`${t.url}/livez`, t.bootstrapKey, old)).rejects.toThrow();
  });

  it('does not speak plain HTTP on the same port', async () => {
    await expect(fetch(`${t.url.replace('https:', 'http:')}/livez`)).rejects.toThrow();
  });

  it('uses a renewed certificate without a restart', { timeout: 30_000 }, async () => {
    const renewed = makeCertificate('second');
    copyFileSync(renewed.key, served.key);
    copyFileSync(renewed.cert, served.cert);
    let { name } = await get(`${t.url}/livez`, t.bootstrapKey);
    for (let tries = 0; name !== 'second' && tries < 100; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      ({ name } = await get(`${t.url}/livez`, t.bootstrapKey));
    }
    expect(name).toBe('second');
  });
});
