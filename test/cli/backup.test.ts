import { createHash, randomBytes } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { joinerOf, killStarted, mailguard, startMailguard, temporary, until } from './support.ts';

afterEach(killStarted);

const dir = temporary();
let places = 0;
/** A path that nothing is at. */
const fresh = (name: string) => {
  places += 1;
  return join(dir, `${name}-${places}`);
};
const NDJSON = { Accept: 'application/x-ndjson' };

let t: TestGateway;
let targets: TestDatabase[] = [];
let domain: { id: number; name: string };
let held: { id: string };
let made: string;
beforeAll(async () => {
  t = await startTestGateway();
  domain = await t.createDomain('shop.example');
  const mail = await t.send('POST', '/mail/quarantine', {
    headers: {
      'Content-Type': 'message/rfc822',
      'X-Mail-From': 'eve@evil.example',
      'X-Rcpt-To': 'you@shop.example',
    },
    body: 'Subject: held\r\n\r\nwith a tab \t, a \\backslash and ümlauts',
  });
  held = mail.body.data;
  await t.send('POST', '/webhooks', {
    body: { url: 'https://hooks.example/x', event_types: ['*'], enabled: false },
  });
  made = fresh('backup');
  const { code, stdout } = await mailguard(['backup', made, '--json'], { env: joinerOf(t) });
  expect([code, JSON.parse(stdout)]).toMatchObject([0, { dir: made, messages: 1 }]);
});
afterAll(async () => {
  await t.close();
  for (const target of targets) await target.drop();
});

/** An installation that holds nothing, and the settings of a client of it. */
async function makeTarget(masterKey = t.gateway.context.config.masterKey) {
  const database = await createDatabase();
  targets = [...targets, database];
  const dataDir = fresh('data');
  const env = {
    MAILGUARD_DATABASE_URL: database.url,
    MAILGUARD_DATA_DIR: dataDir,
    MAILGUARD_MASTER_KEY: masterKey?.toString('hex'),
  };
  const headOf = () => countOf(database, 'eventlog.events');
  return { database, dataDir, env, headOf };
}

/** Changes the manifest of a copy as if a program had written it so. */
function rewrite(place: string, change: (manifest: { migrations: string[] }) => void) {
  const file = join(place, 'manifest.json');
  const { sha256: _, ...manifest } = JSON.parse(readFileSync(file, 'utf8'));
  change(manifest);
  const sha256 = createHash('sha256').update(JSON.stringify(manifest)).digest('hex');
  writeFileSync(file, JSON.stringify({ ...manifest, sha256 }));
}

async function countOf({ pool }: TestDatabase, table: string): Promise<number> {
  const { rows } = await pool.query(`select count(*)::int as n from ${table}`);
  return rows[0].n;
}

const exportOf = async (gateway: TestGateway) =>
  (await gateway.send('GET', '/audit/logs?form=evidence', { headers: NDJSON })).text
    .trimEnd()
    .split('\n')
    .slice(0, -1);

describe('backup', () => {
  it('is a directory for its owner alone, without the master key and without a key', () => {
    expect(statSync(made).mode & 0o777).toBe(0o700);
    const files = readdirSync(made, { recursive: true, withFileTypes: true }).filter((f) =>
      f.isFile(),
    );
    expect(files.length).toBeGreaterThan(20);
    const secrets = [t.bootstrapKey, t.gateway.context.config.masterKey?.toString('hex') ?? ''];
    for (const file of files) {
      const path = join(file.parentPath, file.name);
      expect([path, statSync(path).mode & 0o777]).toEqual([path, 0o600]);
      const bytes = readFileSync(path);
      const text = (path.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString();
      for (const secret of secrets) expect([path, text.includes(secret)]).toEqual([path, false]);
    }
  });

  it('has every table there is, but for those that tell how the database was made', async () => {
    const { rows } = await t.database.pool.query(
      `select n.nspname || '.' || c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where n.nspname in ('public', 'eventlog') and c.relkind in ('r', 'p') and not c.relispartition`,
    );
    const { tables } = JSON.parse(readFileSync(join(made, 'manifest.json'), 'utf8'));
    const copied = tables.map(
      (table: { schema: string; name: string }) => `${table.schema}.${table.name}`,
    );
    const left = rows.map(({ name }) => name).filter((name) => !copied.includes(name));
    expect(left.filter((name) => name !== 'public.projection_copies')).toEqual([
      'public.schema_migrations',
    ]);
  });

  it('is refused where something is already', async () => {
    const { code, stderr } = await mailguard(['backup', made], { env: joinerOf(t) });
    expect(code).toBe(2);
    expect(stderr).toContain(`${made} is not empty`);
  });

  it('is refused where a file is', async () => {
    const file = fresh('file');
    writeFileSync(file, 'mine');
    const { code, stderr } = await mailguard(['backup', file], { env: joinerOf(t) });
    expect([code, stderr]).toEqual([2, expect.stringContaining(`${file} cannot be used`)]);
    expect(readFileSync(file, 'utf8')).toBe('mine');
  });

  it.runIf(existsSync('/proc'))('is refused where no directory can be made', async () => {
    const { code, stdout, stderr } = await mailguard(['backup', '/proc/none/backup'], {
      env: joinerOf(t),
    });
    expect([code, stdout, stderr]).toEqual([
      2,
      '',
      expect.stringMatching(/^error: \/proc\/none\/backup cannot be used: ENOENT: .+\n$/),
    ]);
  });

  it('is refused with another data directory than the gateway’s, which would leave its mail out', async () => {
    const env = { ...joinerOf(t), MAILGUARD_DATA_DIR: fresh('elsewhere') };
    const place = fresh('backup');
    const { code, stderr } = await mailguard(['backup', place], { env });
    expect([code, stderr]).toEqual([2, expect.stringContaining('1 message: held in the database')]);
    expect(existsSync(join(place, 'manifest.json'))).toBe(false);
  });

  it('says where Postfix is the one who holds mail', async () => {
    const env = { ...joinerOf(t), MAILGUARD_QUARANTINE_STORE: 'postfix' };
    const { code, stderr } = await mailguard(['backup', fresh('postfix')], { env });
    expect([code, stderr]).toEqual([0, expect.stringContaining('Postfix holds is in its own')]);
  });

  it('closes an empty directory that was open to others', async () => {
    const place = fresh('open');
    mkdirSync(place, { mode: 0o755 });
    expect((await mailguard(['backup', place], { env: joinerOf(t) })).code).toBe(0);
    expect(statSync(place).mode & 0o777).toBe(0o700);
  });

  it('is one moment, however much is appended meanwhile', async () => {
    const place = fresh('backup');
    let isOver = false;
    const writing = (async () => {
      for (let n = 0; !isOver; n += 1) await t.createDomain(`busy${n}.example`);
    })();
    const { code } = await mailguard(['backup', place], { env: joinerOf(t) });
    isOver = true;
    await writing;
    expect(code).toBe(0);
    const { log, tables } = JSON.parse(readFileSync(join(place, 'manifest.json'), 'utf8'));
    const rowsOf = (name: string) =>
      tables.find((table: { name: string }) => table.name === name).rows;
    expect(rowsOf('events')).toBe(Number(log.head));
    const checkpoints = gunzipSync(
      readFileSync(join(place, 'tables/public.projection_checkpoints.copy.gz')),
    );
    for (const line of checkpoints.toString().trimEnd().split('\n')) {
      expect(
        line.split('\t').some((cell) => /^\d+$/.test(cell) && Number(cell) > Number(log.head)),
      ).toBe(false);
    }
  });
});

describe('restore', () => {
  it('brings back every event, key, mail domain and message; nothing of before goes on by cursor', async () => {
    const { database, dataDir, env } = await makeTarget();
    const cursor = (await t.send('GET', '/audit/logs?limit=1')).headers.get('x-next-cursor');
    const { code, stdout, stderr } = await mailguard(['restore', made, '--json'], { env });
    expect([code, JSON.parse(stdout)]).toMatchObject([0, { messages: 1 }]);
    expect(stderr).toMatch(/The log is in epoch \d+: cursors of before are refused/);
    expect(stderr).toMatch(/same webhook-id.\nWhat was erased after .* must be erased again/);
    const restored = await startTestGateway({
      database,
      dataDir,
      bootstrapKey: t.bootstrapKey,
      masterKey: t.gateway.context.config.masterKey as Buffer,
    });
    const before = await exportOf(t);
    const { head } = JSON.parse(stdout);
    const after = await exportOf(restored);
    expect(after.slice(0, Number(head))).toEqual(before.slice(0, Number(head)));
    expect((await restored.send('GET', `/domains/${domain.id}`)).body.data.name).toBe(
      'shop.example',
    );
    const path = `/mail/quarantine/messages/${held.id}/body`;
    expect((await restored.send('GET', path)).text).toBe((await t.send('GET', path)).text);
    expect((await restored.send('GET', '/webhooks')).body.data).toHaveLength(1);
    const old = await restored.send('GET', `/audit/logs?limit=1&cursor=${cursor}`);
    expect([old.status, old.body.error]).toEqual([409, 'cursor_log_mismatch']);
    const next = await restored.createDomain('next.example');
    expect(next.id).toBeGreaterThan(domain.id);
    const verified = await mailguard(['log', 'verify'], { env: joinerOf(restored) });
    expect([verified.code, verified.stderr]).toEqual([0, '']);
    const again = await mailguard(['restore', made], { env });
    expect([again.code, again.stderr]).toEqual([
      2,
      expect.stringContaining('Another gateway is running'),
    ]);
    await restored.gateway.stop();
    const full = await mailguard(['restore', made], { env });
    expect([full.code, full.stderr]).toEqual([2, expect.stringContaining('is not empty')]);
  });

  const damages: [string, (place: string) => void, string][] = [
    [
      'a byte of a table changed',
      (place) => {
        const file = join(place, 'tables/eventlog.events.copy.gz');
        const text = gunzipSync(readFileSync(file)).toString();
        writeFileSync(file, gzipSync(text.replace('success', 'succesS')));
      },
      'tables/eventlog.events.copy.gz',
    ],
    [
      'a table cut off',
      (place) => {
        const file = join(place, 'tables/public.credentials.copy.gz');
        writeFileSync(file, readFileSync(file).subarray(0, -9));
      },
      'tables/public.credentials.copy.gz',
    ],
    [
      'a table gone',
      (place) => rmSync(join(place, 'tables/public.api_keys.copy.gz')),
      'public.api_keys',
    ],
    [
      'a message changed',
      (place) => {
        writeFileSync(join(place, 'spool', held.id.slice(-2), `${held.id}.eml`), 'other');
      },
      'spool/',
    ],
    [
      'a message gone',
      (place) => rmSync(join(place, 'spool', held.id.slice(-2), `${held.id}.eml`)),
      'spool/',
    ],
    [
      'a digit of the manifest changed',
      (place) => {
        const file = join(place, 'manifest.json');
        const text = readFileSync(file, 'utf8');
        writeFileSync(file, text.replace(/"last": "(\d+)"/, '"last": "1$1"'));
      },
      'manifest.json',
    ],
    ['the list of messages gone', (place) => rmSync(join(place, 'spool.jsonl')), 'spool.jsonl'],
    [
      'a manifest that is none',
      (place) => writeFileSync(join(place, 'manifest.json'), '{"format":1}'),
      'manifest',
    ],
  ];
  it.each(damages)('is 1 and writes nothing: %s', async (_, damage, named) => {
    const place = fresh('damaged');
    cpSync(made, place, { recursive: true });
    damage(place);
    const { env, headOf, dataDir, database } = await makeTarget();
    const { code, stderr } = await mailguard(['restore', place], { env });
    expect([code, stderr]).toEqual([1, expect.stringContaining(named)]);
    const { rows } = await database.pool.query(
      "select to_regclass('eventlog.events') is not null as made",
    );
    expect(rows[0].made && (await headOf())).toBe(0);
    expect(existsSync(join(dataDir, 'spool'))).toBe(false);
  });

  it.each([
    ['no backup', async () => [dir, await makeTarget()] as const, 'manifest.json'],
    [
      'another format',
      async () => {
        const place = fresh('format');
        cpSync(made, place, { recursive: true });
        writeFileSync(join(place, 'manifest.json'), '{"format":2}');
        return [place, await makeTarget()] as const;
      },
      'format 2',
    ],
    [
      'another master key',
      async () => [made, await makeTarget(randomBytes(32))] as const,
      'master key',
    ],
    [
      'no master key',
      async () => {
        const target = await makeTarget();
        return [made, { ...target, env: { ...target.env, MAILGUARD_MASTER_KEY: '' } }] as const;
      },
      'put the master key of this backup there first',
    ],
    [
      'other migrations',
      async () => {
        const place = fresh('newer');
        cpSync(made, place, { recursive: true });
        rewrite(place, ({ migrations }) => migrations.push('9999_later'));
        return [place, await makeTarget()] as const;
      },
      '9999_later',
    ],
  ])('is 2: %s', async (_, make, named) => {
    const [place, { env, dataDir, headOf }] = await make();
    const { code, stderr } = await mailguard(['restore', place], { env });
    expect([code, stderr]).toEqual([2, expect.stringContaining(named)]);
    expect([await headOf(), existsSync(dataDir)]).toEqual([0, false]);
  });

  it('is run again after a kill, and then whole', async () => {
    const { env, headOf, database } = await makeTarget();
    // The log's own rows come last: by then everything else is filled in, and nothing of it is committed.
    const blocker = openClient({ url: database.url, role: null });
    await blocker.connect();
    await blocker.query('begin; lock table eventlog.events in exclusive mode');
    const { child, ended } = startMailguard(['restore', made], env);
    const isCopying = async () => {
      const { rows } = await blocker.query(
        "select from pg_locks where relation = 'eventlog.events'::regclass and not granted",
      );
      return rows.length > 0;
    };
    await until(async () => (await isCopying()) || child.exitCode !== null);
    child.kill('SIGKILL');
    await ended;
    expect(child.signalCode).toBe('SIGKILL');
    await blocker.end();
    expect([await headOf(), await countOf(database, 'mail_domains')]).toEqual([0, 0]);
    const { code, stderr } = await mailguard(['restore', made], { env });
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    const { log } = JSON.parse(readFileSync(join(made, 'manifest.json'), 'utf8'));
    expect(await headOf()).toBe(Number(log.head));
    expect(await countOf(database, 'mail_domains')).toBe(1);
  });
});
