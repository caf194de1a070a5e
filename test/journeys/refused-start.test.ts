import { randomUUID } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { listAppliedMigrations } from '../../src/db/migrate.ts';
import { openClient } from '../../src/db/pool.ts';
import { joinerOf, mailguard, temporary } from '../cli/support.ts';
import { asAdmin, createDatabase } from '../support/database.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startPostfixGateway } from '../support/postfix-gateway.ts';

const home = temporary();
const GOOD = '00112233445566778899aabbccddeeff'.repeat(2);
/** Nobody listens there: whatever gets past the settings fails in another way. */
const NOWHERE = 'postgres://nobody@127.0.0.1:1/nothing';

let homes = 0;
/** A data directory that holds this text as its master key. */
function homeWith(masterKey: string, mode = 0o600): string {
  homes += 1;
  const path = join(home, String(homes));
  mkdirSync(path);
  writeFileSync(join(path, 'master-key'), masterKey);
  chmodSync(join(path, 'master-key'), mode);
  return path;
}
const serve = (env: NodeJS.ProcessEnv) =>
  mailguard(['serve'], { env: { MAILGUARD_DATABASE_URL: NOWHERE, ...env } });

async function appliedTo(url: string): Promise<readonly string[]> {
  const client = openClient({ url, role: null });
  await client.connect();
  return listAppliedMigrations(client).finally(() => client.end());
}

/** The refusal's lines, one a problem; empty when the start failed otherwise. */
async function problemsOf(env: NodeJS.ProcessEnv): Promise<string[]> {
  const { code, stdout, stderr } = await serve(env);
  if (!stderr.startsWith('The configuration is refused:\n')) return [];
  expect([code, stdout]).toEqual([2, '']);
  return stderr.trim().split('\n').slice(1);
}

describe('serve, with a master-key file', () => {
  it.each<[string, string, string]>([
    ['an empty one', '', 'must hold 32 bytes in hex (64 digits)'],
    ['one with a line end alone', '\n', 'must hold 32 bytes in hex (64 digits)'],
    ['one with too few digits', GOOD.slice(0, 62), 'must hold 32 bytes in hex (64 digits)'],
    ['one with a digit too many', `${GOOD}0`, 'must hold 32 bytes in hex (64 digits)'],
    ['one that is no hex', `${GOOD.slice(0, 63)}g`, 'must hold 32 bytes in hex (64 digits)'],
    ['one with two lines', `${GOOD}\n${GOOD}\n`, 'must hold 32 bytes in hex (64 digits)'],
    ['one of zeros', '0'.repeat(64), 'has too little variety to be random'],
  ])('refuses %s, naming the file', async (_, text, problem) => {
    const dataDir = homeWith(text);
    expect(await problemsOf({ MAILGUARD_DATA_DIR: dataDir })).toEqual([
      `- ${join(dataDir, 'master-key')} ${problem}`,
    ]);
  });

  it('refuses one that others may read, and names all that is wrong with it', async () => {
    const dataDir = homeWith('short', 0o640);
    const file = join(dataDir, 'master-key');
    expect(await problemsOf({ MAILGUARD_DATA_DIR: dataDir })).toEqual([
      `- ${file} must hold 32 bytes in hex (64 digits)`,
      `- ${file} may be read by others: chmod 600`,
    ]);
  });

  it('says nothing of what the file holds', async () => {
    const { stderr } = await serve({ MAILGUARD_DATA_DIR: homeWith(`${GOOD}xyz`) });
    expect(stderr).not.toContain(GOOD.slice(0, 8));
  });

  it('takes a good one, whatever its case and line end, and gets as far as the database', async () => {
    for (const text of [GOOD, `${GOOD.toUpperCase()}\n`]) {
      const { code, stderr } = await serve({ MAILGUARD_DATA_DIR: homeWith(text) });
      expect(code).toBe(1);
      expect(stderr).toContain('ECONNREFUSED');
    }
  });
});

describe('serve, with settings that are wrong in many ways', () => {
  it('names all of them at once, unreadable TLS files among them, and leaves nothing behind', async () => {
    const dataDir = join(home, 'never-made');
    const problems = await problemsOf({
      MAILGUARD_DATA_DIR: dataDir,
      MAILGUARD_DATABASE_URL: 'mysql://x',
      MAILGUARD_PORT: 'x',
      MAILGUARD_TLS_CERT: join(home, 'no-such.pem'),
      MAILGUARD_TLS_KEY: home,
      MAILGUARD_TRUSTED_PROXIES: '0.0.0.0/1, nonsense, 10.0.0.0/8',
      MAILGUARD_MASTER_KEY: 'abc',
      MAILGUARD_BOOTSTRAP_KEY_FILE: join(home, 'no-such-key'),
      MAILGUARD_COLOUR: 'blue',
    });
    expect(problems.toSorted()).toEqual(
      [
        '- MAILGUARD_BOOTSTRAP_KEY_FILE cannot be read',
        '- MAILGUARD_COLOUR is not a setting',
        '- MAILGUARD_DATABASE_URL must begin with postgres://',
        '- MAILGUARD_MASTER_KEY must be 32 bytes in hex (64 digits)',
        '- MAILGUARD_PORT must be a port number',
        '- MAILGUARD_TRUSTED_PROXIES: 0.0.0.0/1 would trust everybody',
        '- MAILGUARD_TRUSTED_PROXIES: nonsense is not an address or CIDR',
        `- ${join(home, 'no-such.pem')} (TLS) cannot be read`,
        `- ${home} (TLS) cannot be read`,
      ].toSorted(),
    );
    expect(existsSync(dataDir)).toBe(false);
  });
});

describe('serve, where what is there belongs to other settings', () => {
  let t: TestGateway;
  let env: NodeJS.ProcessEnv;
  beforeAll(async () => {
    t = await startTestGateway();
    env = joinerOf(t);
    await t.gateway.stop();
  });
  afterAll(() => t.close());

  it('refuses a master key that the database was not begun with', async () => {
    expect(await problemsOf({ ...env, MAILGUARD_MASTER_KEY: GOOD })).toEqual([
      '- the master key is not the one this database was begun with: set MAILGUARD_MASTER_KEY (or the ' +
        'master-key file in the data directory) to that one',
    ]);
  });

  it.each<[string, (url: URL) => void, string]>([
    [
      'a database that is not there',
      (url) => {
        url.pathname = '/no_such_database';
      },
      '- the database turns its URL away: database "no_such_database" does not exist',
    ],
    [
      'a role that is not there',
      (url) => {
        url.username = 'nobody_at_all';
      },
      '- the database turns its URL away: password authentication failed for user "nobody_at_all"',
    ],
  ])('refuses %s, for the read models and for the log', async (_, change, problem) => {
    const url = new URL(env['MAILGUARD_DATABASE_URL'] ?? '');
    change(url);
    expect(await problemsOf({ ...env, MAILGUARD_DATABASE_URL: url.href })).toEqual([problem]);
    expect(await problemsOf({ ...env, MAILGUARD_EVENTLOG_URL: url.href })).toEqual([problem]);
  });

  it.each<[string, readonly string[]]>([
    ['after ours', ['0998_later', '0999_latest']],
    ['between ours', ['0003_between']],
  ])(
    'refuses a database that a later release has migrated %s, and leaves it alone',
    async (_, names) => {
      const later = await createDatabase();
      // One of ours is missing: it would be run, if anything were.
      await asAdmin(
        later.url,
        `delete from public.schema_migrations where name = '0009_log_home';
       insert into public.schema_migrations (name, run_on) select name, now() from unnest('{${names}}'::text[]) name`,
      );
      const before = await appliedTo(later.url);
      const problem =
        `- the database ${later.name} has migrations that this release does not know (${names.join(', ')}): start ` +
        'the release that made them, or a later one, or restore a backup of before the upgrade';
      expect(await problemsOf({ ...env, MAILGUARD_DATABASE_URL: later.url })).toEqual([problem]);
      expect(await problemsOf({ ...env, MAILGUARD_EVENTLOG_URL: later.url })).toEqual([problem]);
      expect(await appliedTo(later.url)).toEqual(before);
      await later.drop();
    },
  );

  it('refuses a spool whose messages the database knows nothing of', async () => {
    const dataDir = homeWith(GOOD);
    for (let n = 0; n <= 100; n += 1) {
      const id = randomUUID();
      const shard = join(dataDir, 'spool', id.slice(-2));
      mkdirSync(shard, { recursive: true });
      writeFileSync(join(shard, `${id}.eml`), 'Subject: kept\r\n\r\n');
    }
    expect(await problemsOf({ ...env, MAILGUARD_DATA_DIR: dataDir })).toEqual([
      `- the spool in ${join(dataDir, 'spool')} holds 101 messages and the database has none: this is not ` +
        'the database that they belong to; set the right one, or move the spool away',
    ]);
  });

  it('refuses a spool while messages are in the hold queue', async () => {
    const held = await startPostfixGateway();
    await held.held();
    const holder = held.gateway();
    await holder.gateway.stop();
    const settings = { ...joinerOf(holder), MAILGUARD_NODE_ID: 'node-1' };
    expect(await problemsOf(settings)).toEqual([
      '- 1 messages are in the hold queue of Postfix: set MAILGUARD_QUARANTINE_STORE=postfix until they are ' +
        'released, discarded or gone from there',
    ]);
    await held.stop();
  });
});

describe('serve, with a data directory or files that cannot be used', () => {
  it('refuses a directory that the account of the embedded database cannot reach', async (context) => {
    if (process.getuid?.() !== 0) context.skip('only root starts the database as another account');
    const closed = join(home, 'closed');
    mkdirSync(closed, { mode: 0o700 });
    const settings = { MAILGUARD_DATA_DIR: join(closed, 'data'), MAILGUARD_DATABASE_URL: '' };
    expect(await problemsOf(settings)).toEqual([
      expect.stringMatching(/^- MAILGUARD_DATA_DIR names .*closed\/data, which .* cannot reach/),
    ]);
  });

  it('refuses a database that another major version of PostgreSQL made', async () => {
    const dataDir = homeWith(GOOD);
    mkdirSync(join(dataDir, 'postgres'));
    writeFileSync(join(dataDir, 'postgres', 'PG_VERSION'), '16\n');
    chmodSync(dataDir, 0o711);
    const settings = { MAILGUARD_DATA_DIR: dataDir, MAILGUARD_DATABASE_URL: '' };
    expect(await problemsOf(settings)).toEqual([
      expect.stringMatching(/^- .*postgres was made by PostgreSQL 16 and this is 18: /),
    ]);
  });

  it('refuses TLS files that are no certificate and its key, before anything is made', async () => {
    const dataDir = join(home, 'never-made-either');
    const file = join(home, 'no.pem');
    writeFileSync(file, 'no certificate');
    const tls = { MAILGUARD_TLS_CERT: file, MAILGUARD_TLS_KEY: file };
    expect(await problemsOf({ MAILGUARD_DATA_DIR: dataDir, ...tls })).toEqual([
      expect.stringMatching(
        /^- MAILGUARD_TLS_CERT and MAILGUARD_TLS_KEY are no certificate and its key: \S/,
      ),
    ]);
    expect(existsSync(dataDir)).toBe(false);
  });
});
