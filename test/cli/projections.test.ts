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
    expect(asTable.stdout).toMatch(/^NAME +VERSION +POSITION +BEHIND +SAVED\napi_keys +1 +\d/);
  });

  it('are rebuilt beside a running gateway, which goes on from there', async () => {
    const { id } = await t.createKey();
    await asAdmin(t.database.url, `delete from api_keys where id = ${id}`);
    expect((await t.send('GET', `/auth/api-keys/${id}`)).status).toBe(404);
    const argv = ['projections', 'rebuild', 'api_keys'];
    const { code, stdout } = await mailguard(argv, { env: joinerOf(t) });
    expect(code).toBe(0);
    expect(stdout).toMatch(/^api_keys is rebuilt up to position \d+\.\n$/);
    expect((await t.send('GET', `/auth/api-keys/${id}`)).status).toBe(200);
    const { id: next } = await t.createKey();
    expect((await t.send('GET', `/auth/api-keys/${next}`)).status).toBe(200);
    const json = await mailguard([...argv, '--json'], { env: joinerOf(t) });
    expect(JSON.parse(json.stdout)).toEqual({
      name: 'api_keys',
      position: expect.stringMatching(/^\d+$/),
    });
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
