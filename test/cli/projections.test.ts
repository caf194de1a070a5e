import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asAdmin } from '../support/database.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { joinerOf, mailguard, temporary } from './support.ts';

describe('projections', () => {
  let t: TestGateway;
  beforeAll(async () => {
    t = await startTestGateway();
  });
  afterAll(() => t.close());

  it('are listed with how far they are', async () => {
    const { code, stdout } = await mailguard(['projections', 'list', '--json'], {
      env: joinerOf(t),
    });
    expect(code).toBe(0);
    const rows: { name: string; position: string; behind: string }[] = JSON.parse(stdout);
    expect(rows.map(({ name }) => name)).toEqual([
      'api_keys',
      'mail_domains',
      'quarantine',
      'sender_filters',
      'webhooks',
      'rate_limits',
      'erasures',
    ]);
    const { position: head } = await t.gateway.context.log.head();
    for (const { position, behind } of rows) expect(BigInt(position) + BigInt(behind)).toBe(head);
    const asTable = await mailguard(['projections', 'list'], { env: joinerOf(t) });
    expect(asTable.stdout).toMatch(
      /^NAME +VERSION +POSITION +BEHIND +SAVED +REBUILD +PREVIOUS\napi_keys +1 +\d/,
    );
  });

  const projections = (...argv: string[]) =>
    mailguard(['projections', ...argv], { env: joinerOf(t) });
  const listed = async (name: string) => {
    const { stdout } = await projections('list', '--json');
    const rows: { name: string; rebuild: object | null; previous: object | null }[] =
      JSON.parse(stdout);
    return rows.find((row) => row.name === name);
  };
  const place = { version: 1, position: expect.stringMatching(/^\d+$/) };

  it('are rebuilt beside a running gateway, which goes on from there', async () => {
    const { id } = await t.createKey();
    const { code, stdout } = await projections('rebuild', 'api_keys');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^api_keys is rebuilt up to position \d+\.\n$/);
    expect((await t.send('GET', `/auth/api-keys/${id}`)).status).toBe(200);
    const { id: next } = await t.createKey();
    expect((await t.send('GET', `/auth/api-keys/${next}`)).status).toBe(200);
    expect(await listed('api_keys')).toMatchObject({ rebuild: null, previous: place });
    const json = await projections('rebuild', 'api_keys', '--json');
    expect(JSON.parse(json.stdout)).toEqual({
      name: 'api_keys',
      position: expect.stringMatching(/^\d+$/),
      differing: [],
    });
  });

  it('are not rebuilt to other rows unless forced, and are rolled back', async () => {
    const { id } = await t.createKey();
    const found = async () => (await t.send('GET', `/auth/api-keys/${id}`)).status;
    await asAdmin(t.database.url, `delete from api_keys where id = ${id}`);
    expect(await found()).toBe(404);
    const refused = await projections('rebuild', 'api_keys');
    expect(refused).toMatchObject({ code: 1, stdout: '' });
    expect(refused.stderr).toContain('- api_keys: 0 rows only in the old, 1 row only in the new\n');
    expect(refused.stderr).toContain('Nothing has changed; --force');
    expect(await found()).toBe(404);
    expect(await listed('api_keys')).toMatchObject({ rebuild: place });
    const forced = await projections('rebuild', 'api_keys', '--force');
    expect(forced.code).toBe(0);
    expect(forced.stdout).toContain('- api_keys: 0 rows only in the old, 1 row only in the new\n');
    expect(await found()).toBe(200);
    const { id: later } = await t.createKey();
    const back = await projections('rollback', 'api_keys');
    expect(back.code).toBe(0);
    expect(back.stdout).toMatch(/^api_keys has its previous rows again, up to position \d+\.\n$/);
    expect(await found()).toBe(404);
    expect((await t.send('GET', `/auth/api-keys/${later}`)).status).toBe(200);
    const undone = await projections('rollback', 'api_keys', '--json');
    expect(JSON.parse(undone.stdout)).toEqual({ name: 'api_keys', position: place.position });
    expect(await found()).toBe(200);
  });

  it('are rid of what rebuilds have left', async () => {
    await projections('rebuild', 'mail_domains');
    expect(await listed('mail_domains')).toMatchObject({ previous: place });
    const { stdout } = await projections('clean', 'mail_domains');
    expect(stdout).toBe('mail_domains: the previous rows dropped.\n');
    expect(await listed('mail_domains')).toMatchObject({ rebuild: null, previous: null });
    const again = await projections('clean', 'mail_domains', '--json');
    expect(JSON.parse(again.stdout)).toEqual({ name: 'mail_domains', dropped: [] });
    expect(await projections('rollback', 'mail_domains')).toMatchObject({
      code: 1,
      stderr: 'error: mail_domains has no previous rows.\n',
    });
  });

  it('that have no tables are applied again', async () => {
    const { code } = await projections('rebuild', 'erasures');
    expect(code).toBe(0);
    expect(await listed('erasures')).toMatchObject({ rebuild: null, previous: null });
  });

  it('refuse a name that none has', async () => {
    const argv = ['projections', 'rebuild', 'keys'];
    const { code, stderr } = await mailguard(argv, { env: joinerOf(t) });
    expect(code).toBe(2);
    expect(stderr).toContain('no read model is called "keys", but api_keys, mail_domains');
  });
});

describe('openapi print', () => {
  const committed = readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8');

  it('prints the contract, with neither settings nor database', async () => {
    const env = { MAILGUARD_PORT: 'nonsense' };
    const { code, stdout } = await mailguard(['openapi', 'print'], { env });
    expect(code).toBe(0);
    expect(stdout.split('\n')[0]).toBe(committed.split('\n')[0]);
    expect(stdout).toContain('operationId: createApiKey');
  });

  it('writes it to a file, or prints it as JSON', async () => {
    const file = join(temporary(), 'openapi.yaml');
    const { stdout } = await mailguard(['openapi', 'print', '--out', file]);
    expect(stdout).toBe('');
    expect(readFileSync(file, 'utf8')).toContain('openapi: 3.1.0');
    const json = await mailguard(['openapi', 'print', '--json']);
    expect(JSON.parse(json.stdout).openapi).toBe('3.1.0');
  });
});
