import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { issueApiKey } from '../../src/secret-text.ts';
import { mailguard } from '../cli/support.ts';
import { asAdmin } from '../support/database.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { ask, makeTemporary, removeTemporary, start, stopAll } from './embedded-support.ts';

// Roles belong to a whole server, so these have one to themselves; the tests build on each other.
let serverUrl: string;
beforeAll(async () => {
  serverUrl = (await start(await makeTemporary())).url;
});
afterAll(async () => {
  await stopAll();
  await removeTemporary();
});

/** A database as a host gives it away: owned by a role that can make databases, and is no superuser. */
async function giveDatabase(name: string, owner: string): Promise<string> {
  await asAdmin(serverUrl, `create database ${name} owner ${owner}`);
  const url = new URL(serverUrl);
  url.username = owner;
  url.password = 'hosted';
  url.pathname = `/${name}`;
  return url.href;
}
const makeRole = (name: string, rights: string) =>
  asAdmin(serverUrl, `create role ${name} login nosuperuser ${rights} password 'hosted'`);

/** Starts on a database, makes a key, and tells as whom it works. */
async function serveOn(databaseUrl: string) {
  const t = await startTestGateway({ config: { databaseUrl }, ...secrets });
  try {
    const ready = await t.send('GET', '//readyz', { key: null });
    const { key } = await t.createKey();
    const { pool, warnings } = t.gateway.context;
    const { rows } = await pool.query<{ as: string }>('select current_user as as');
    return {
      ready: ready.body.data.ready,
      opens: (await t.send('GET', '/domains', { key })).status,
      worksAs: rows[0]?.as,
      warnings: warnings(),
      rebuilt: await rebuilds(t, key),
    };
  } finally {
    await t.close();
  }
}
/** Rebuilds a read model and rolls it back beside the gateway; tells how that ended and whether the key opens. */
async function rebuilds(t: TestGateway, key: string): Promise<readonly number[]> {
  const env = { MAILGUARD_DATABASE_URL: t.gateway.context.config.databaseUrl ?? '' };
  const outcomes: number[] = [];
  for (const verb of ['rebuild', 'rollback', 'clean']) {
    const ran = await mailguard(['projections', verb, 'api_keys'], { env });
    outcomes.push(ran.code, (await t.send('GET', '/domains', { key })).status);
  }
  const listed = await t.send('GET', '/auth/api-keys');
  expect(listed.body.data.length).toBeGreaterThan(1);
  return outcomes;
}

/** The same at each start. */
const secrets = { masterKey: randomBytes(32), bootstrapKey: issueApiKey() };
const served = { ready: true, opens: 200, rebuilt: [0, 200, 0, 200, 0, 200] };
const unprotected = [expect.stringContaining('mailguard_app')];

describe('a database whose owner is no superuser', () => {
  it('is served under its own role where it may not make one, with a warning', async () => {
    await makeRole('plain', 'nocreaterole');
    const url = await giveDatabase('plain_one', 'plain');
    expect(await serveOn(url)).toEqual({ ...served, worksAs: 'plain', warnings: unprotected });
    await expect(ask(url, 'delete from eventlog.events')).rejects.toThrow(/append-only/);
  });

  it('is served under the role that cannot change the log where the owner may make it', async () => {
    await makeRole('maker', 'createrole');
    const url = await giveDatabase('maker_one', 'maker');
    expect(await serveOn(url)).toEqual({ ...served, worksAs: 'mailguard_app', warnings: [] });
    // At the next start, and for a second database of theirs, the role is there.
    expect(await serveOn(url)).toMatchObject({ ...served, worksAs: 'mailguard_app' });
    const second = await giveDatabase('maker_two', 'maker');
    expect(await serveOn(second)).toMatchObject({ ...served, worksAs: 'mailguard_app' });
  });

  it("is served under its own role where the other one is a neighbour's", async () => {
    await makeRole('neighbour', 'createrole');
    const url = await giveDatabase('neighbour_one', 'neighbour');
    const expected = { ...served, worksAs: 'neighbour', warnings: unprotected };
    expect(await serveOn(url)).toEqual(expected);
    // Since PostgreSQL 16 a member need not be allowed to become what it is a member of.
    await asAdmin(serverUrl, 'grant mailguard_app to neighbour with inherit true, set false');
    expect(await serveOn(url)).toEqual(expected);
  });

  it('is backed up by its owner, and restored into another one', async () => {
    await makeRole('keeper', 'nocreaterole');
    const [source, target] = [
      await giveDatabase('keeper_source', 'keeper'),
      await giveDatabase('keeper_target', 'keeper'),
    ];
    await serveOn(source);
    const home = await makeTemporary();
    const env = {
      MAILGUARD_DATA_DIR: join(home, 'data'),
      MAILGUARD_MASTER_KEY: secrets.masterKey.toString('hex'),
    };
    const place = join(home, 'backup');
    const made = await mailguard(['backup', place], {
      env: { ...env, MAILGUARD_DATABASE_URL: source },
    });
    expect([made.code, made.stderr]).toEqual([0, expect.any(String)]);
    const { code, stderr } = await mailguard(['restore', place], {
      env: { ...env, MAILGUARD_DATABASE_URL: target },
    });
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    expect(await serveOn(target)).toMatchObject(served);
  });
});
