import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Deprecation, requireNotice } from '../../src/api/deprecation.ts';
import { openapiJson } from '../../src/api/openapi.ts';
import { route } from '../../src/api/route.ts';
import { routes } from '../../src/api/routes.ts';
import { createServer } from '../../src/api/server.ts';
import { z } from '../../src/api/zod.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { type StoppedClock, stoppedClock } from '../support/stopped-clock.ts';

const deprecated: Deprecation = {
  since: '2026-12-01',
  sunset: '2099-06-01',
  successor: '/domains',
  note: 'It was slow.',
};
const made = (id: string, more: object = {}) =>
  route({
    id,
    method: 'get',
    path: `/${id}`,
    tag: 'Service',
    summary: 'A route.',
    permission: { operation: 'read', reach: 'mail_domain' },
    reply: z.null(),
    errors: [],
    handle: async () => ({ data: null, headers: { Link: '</next>; rel="next"' } }),
    ...more,
  });
const TABLE = [
  made('old', { deprecated }),
  made('new'),
  made('alone', { deprecated: { since: '2026-12-01', sunset: '2027-06-01', note: 'Gone.' } }),
];
const CONTRACT = '</api/v1/openapi.yaml>; rel="deprecation"';

let t: TestGateway;
let clock: StoppedClock;
let server: ReturnType<typeof createServer>;
beforeAll(async () => {
  clock = stoppedClock();
  t = await startTestGateway({ clock });
  server = createServer(t.gateway.context, TABLE);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
afterAll(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await t.close();
});

async function read(path: string, key: string | null = t.bootstrapKey) {
  const { port } = server.address() as AddressInfo;
  const headers = key === null ? {} : { 'X-API-Key': key };
  const reply = await fetch(`http://127.0.0.1:${port}/api/v1${path}`, { headers });
  const told = (name: string) => reply.headers.get(name);
  return {
    status: reply.status,
    deprecation: told('deprecation'),
    sunset: told('sunset'),
    link: told('link'),
  };
}

describe('a deprecated route', () => {
  it('200: says since when, until when and what instead, beside its own links', async () => {
    expect(await read('/old')).toEqual({
      status: 200,
      deprecation: '@1796083200',
      sunset: 'Mon, 01 Jun 2099 00:00:00 GMT',
      link: `${CONTRACT}, </api/v1/domains>; rel="successor-version", </next>; rel="next"`,
    });
    expect((await read('/alone')).link).toBe(`${CONTRACT}, </next>; rel="next"`);
  });

  it.each([
    ['400', 400, '/old?x=1', undefined],
    ['401', 401, '/old', null],
  ] as const)('%s: says so in a refusal, too', async (_, status, path, key) => {
    const reply = await read(path, key === undefined ? t.bootstrapKey : key);
    expect(reply).toMatchObject({ status, deprecation: '@1796083200' });
    expect(reply.link).toContain('successor-version');
  });

  it('is counted, and another is neither counted nor announced', async () => {
    const count = async () => {
      const { values } = await t.gateway.context.metrics.deprecatedRequests.get();
      return Object.fromEntries(values.map(({ labels, value }) => [labels.route, value]));
    };
    const before = (await count())['old'] ?? 0;
    await read('/old');
    await read('/old', null);
    expect(await read('/new')).toEqual({
      status: 200,
      deprecation: null,
      sunset: null,
      link: '</next>; rel="next"',
    });
    const after = await count();
    expect([after['old'], after['new']]).toEqual([before + 2, undefined]);
  });

  it('of it and its key, says the earlier end', async () => {
    const { id, key } = await t.createKey();
    await t.send('POST', `/auth/api-keys/${id}/rotate`, { body: { grace_seconds: 600 } });
    const graceEnds = new Date(clock.nowMs() + 600_000).toUTCString();
    expect((await read('/new', key)).sunset).toBe(graceEnds);
    expect((await read('/old', key)).sunset).toBe(graceEnds);
    // The control: a grace that outlasts the route.
    const other = await t.createKey();
    clock.advance(Date.parse('2027-05-31T00:00:00Z') - clock.nowMs());
    await t.send('POST', `/auth/api-keys/${other.id}/rotate`, { body: { grace_seconds: 172_800 } });
    expect((await read('/alone', other.key)).sunset).toBe('Tue, 01 Jun 2027 00:00:00 GMT');
  });

  it('stands so in the contract', () => {
    const { paths } = JSON.parse(openapiJson(TABLE));
    expect(paths['/api/v1/old'].get).toMatchObject({
      deprecated: true,
      description: expect.stringContaining(
        'Deprecated since 2026-12-01, and gone on 2099-06-01: It was slow. Use `/api/v1/domains` instead.',
      ),
    });
    expect(paths['/api/v1/new'].get).not.toHaveProperty('deprecated');
  });
});

describe('six months', () => {
  it.each([
    ['2026-12-01', '2027-06-01'],
    ['2026-08-31', '2027-02-28'],
    ['2027-08-31', '2028-02-29'],
    ['2026-03-31', '2026-09-30'],
  ])('%s to %s are', (since, sunset) => {
    expect(() => requireNotice({ since, sunset, note: '' })).not.toThrow();
  });

  it.each([
    ['2026-12-01', '2027-05-31'],
    ['2026-08-31', '2027-02-27'],
    ['2027-08-31', '2028-02-28'],
    ['2027-06-01', '2026-12-01'],
    ['2026-02-30', '2027-02-01'],
    ['2026-12-01', 'soon'],
  ])('%s to %s are not, and no table is made of it', (since, sunset) => {
    expect(() => made('x', { deprecated: { since, sunset, note: '' } })).toThrow(
      /less than|no day/,
    );
  });

  it('have every deprecated route of the table', () => {
    for (const { deprecated: told, id } of routes) {
      if (told !== undefined) expect(() => requireNotice(told), id).not.toThrow();
    }
  });
});
