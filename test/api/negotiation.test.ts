import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { requestHead, sendRaw } from '../support/raw-http.ts';

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway();
  await t.createDomain();
});
afterAll(() => t.close());

const get = (target: string, ...lines: readonly string[]) =>
  sendRaw(t.url, requestHead(`GET ${target}`, `X-API-Key: ${t.bootstrapKey}`, ...lines));

describe('Accept-Encoding (RFC 9110 12.5.3)', () => {
  const LONG = '/api/v1/openapi.json';
  const LOG = '/api/v1/audit/logs';

  it.each(['gzip', 'GZIP;q=0.001', '*', 'br, *;q=0.1', 'br;q=0, gzip', 'gzip;q=1, *;q=0'])(
    '%s gets gzip',
    async (coding) => {
      const asked = `Accept-Encoding: ${coding}`;
      for (const reply of [
        await get(LONG, asked),
        await get(LOG, asked, 'Accept: application/x-ndjson'),
      ]) {
        expect(reply.status).toBe(200);
        expect(reply.head).toMatch(/^content-encoding: gzip$/im);
      }
    },
  );

  it.each([
    'gzip;q=0',
    'gzip; q=0.000',
    'GZIP;Q=0',
    '*;q=0',
    'gzip;q=0, *',
    '*, gzip;q=0',
    'br',
    'identity, *;q=0',
  ])('%s gets none', async (coding) => {
    const asked = `Accept-Encoding: ${coding}`;
    for (const reply of [
      await get(LONG, asked),
      await get(LOG, asked, 'Accept: application/x-ndjson'),
    ]) {
      expect(reply.status).toBe(200);
      expect(reply.head).not.toMatch(/content-encoding/i);
    }
  });
});

describe('Accept of GET /audit/logs (RFC 9110 12.5.1)', () => {
  const contentOf = async (accept: string) => {
    const reply = await t.send('GET', '/audit/logs', { headers: { Accept: accept } });
    return [reply.status, reply.headers.get('content-type')?.split(';')[0]];
  };

  it.each([
    'application/json, application/x-ndjson;q=0',
    'application/x-ndjson;q=0.0, */*',
    'application/x-ndjson ; q=0, application/*',
  ])('%s gets a page', async (accept) => {
    expect(await contentOf(accept)).toEqual([200, 'application/json']);
  });

  it.each([
    'application/x-ndjson',
    'application/x-ndjson;q=0.1',
    'application/json;q=0, application/x-ndjson',
  ])('%s gets an export', async (accept) => {
    expect(await contentOf(accept)).toEqual([200, 'application/x-ndjson']);
  });

  it.each(['application/x-ndjson;q=0', 'application/x-ndjsonx', 'application/json;q=0'])(
    '406: %s',
    async (accept) => {
      expect(await contentOf(accept)).toEqual([406, 'application/json']);
    },
  );
});
