import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openClient } from '../../src/db/pool.ts';
import type { EventLog, EventToAppend } from '../../src/eventlog/eventlog.ts';
import type { ProjectedEvent, Projection } from '../../src/projections/projection.ts';
import { type Projector, startProjector } from '../../src/projections/projector.ts';
import { asAdmin, createDatabase, type TestDatabase } from '../support/database.ts';
import { anEvent } from '../support/events.ts';
import { untilBlocked } from '../support/lock-waits.ts';
import { gate, openGates } from '../support/projecting.ts';

let database: TestDatabase;
let log: EventLog;
let admin: pg.Client;
let projectors: Projector[];
let errors: { fields: object; message: string }[];
beforeEach(async () => {
  database = await createDatabase();
  // Without a key: an event that is applied twice is there twice.
  await asAdmin(
    database.url,
    `create table applied (projection text, position bigint);
     grant select, insert, delete on applied to mailguard_app`,
  );
  log = await database.openLog();
  admin = openClient({ url: database.url, role: null });
  await admin.connect();
  projectors = [];
  errors = [];
});
afterEach(async () => {
  openGates();
  for (const projector of projectors) await projector.stop();
  await admin.end();
  await database.drop();
});

type Hook = (db: pg.ClientBase, events: readonly ProjectedEvent[]) => unknown;

/** Notes each event it is given; what `around` does comes after, still in the transaction. */
function noting(name: string, around: Hook = () => undefined): Projection {
  return {
    name,
    version: 1,
    types: ['test.happened'],
    async apply(db, events) {
      await db.query('insert into applied select $1, unnest($2::bigint[])', [
        name,
        events.map(({ stored }) => stored.position),
      ]);
      await around(db, events);
    },
    tables: ['applied'],
  };
}

async function run(...projections: Projection[]): Promise<Projector> {
  const logger = {
    warn: () => undefined,
    error: (fields: object, message: string) => errors.push({ fields, message }),
  };
  const projector = await startProjector({ pool: database.pool, log, logger }, projections);
  projectors.push(projector);
  return projector;
}

async function append(count: number, fields: Partial<EventToAppend> = {}): Promise<bigint> {
  const commands = Array.from({ length: count }, () =>
    log.append({ stream: `s-${randomInt(50)}`, expected: 'any', events: [anEvent(fields)] }),
  );
  await Promise.all(commands);
  return (await log.head()).position;
}

async function appliedBy(name: string): Promise<bigint[]> {
  const { rows } = await admin.query<{ position: string }>(
    'select position from applied where projection = $1 order by position',
    [name],
  );
  return rows.map(({ position }) => BigInt(position));
}

const upTo = (position: bigint): bigint[] =>
  Array.from({ length: Number(position) }, (_, n) => BigInt(n + 1));

const statusOf = async (projector: Projector, name: string) => {
  const found = (await projector.status()).find((status) => status.name === name);
  if (found === undefined) throw new Error(`no projection ${name}`);
  return found;
};

async function eventually(isSo: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!(await isSo())) {
    if (Date.now() > deadline) throw new Error('waited in vain for 10 s');
    await sleep(10);
  }
}

describe('the fence', () => {
  it('lets two runners on one database apply each event once', async () => {
    const runners = [await run(noting('twin')), await run(noting('twin'))];
    let position = 0n;
    for (let round = 0; round < 30; round += 1) {
      position = await append(20);
      await sleep(randomInt(8));
    }
    for (const runner of runners)
      expect(await runner.caughtUp(position, ['twin'], 10_000)).toBe(true);
    expect(await appliedBy('twin')).toEqual(upTo(position));
  });

  it('is what does it: two runners that do not lock the checkpoint apply events twice (control)', async () => {
    await admin.query(`insert into projection_checkpoints (name, version) values ('naive', 1)`);
    let isAppending = true;
    const naive = async () => {
      for (;;) {
        const isLast = !isAppending;
        const { rows } = await database.pool.query<{ position: string }>(
          `select position from projection_checkpoints where name = 'naive'`,
        );
        const after = BigInt(rows[0]?.position ?? 0);
        const { position: until } = await log.head();
        if (until === after && isLast) return;
        const page = await log.readAll({ after, until, filter: {}, limit: 1_000 });
        await database.pool.query(`insert into applied select 'naive', unnest($1::bigint[])`, [
          page.events.map((event) => event.position),
        ]);
        await database.pool.query(
          `update projection_checkpoints set position = $1 where name = 'naive'`,
          [page.scannedTo],
        );
      }
    };
    const runners = [naive(), naive()];
    let position = 0n;
    let found = 0;
    for (let round = 0; round < 200 && found <= Number(position); round += 1) {
      position = await append(20);
      found = (await appliedBy('naive')).length;
    }
    isAppending = false;
    await Promise.all(runners);
    expect((await appliedBy('naive')).length).toBeGreaterThan(Number(position));
  });

  it('applies a page once when its runner is killed between apply and commit', async () => {
    let kills = 0;
    const killed = noting('killed', async (db) => {
      if (kills >= 3) return;
      kills += 1;
      const { rows } = await db.query<{ pid: number }>('select pg_backend_pid() as pid');
      await admin.query('select pg_terminate_backend($1)', [rows[0]?.pid]);
    });
    const position = await append(50);
    const projector = await run(killed);
    expect(await projector.caughtUp(position, ['killed'], 10_000)).toBe(true);
    expect(kills).toBe(3);
    expect(await appliedBy('killed')).toEqual(upTo(position));
  });

  it('lets a second runner take over what the first was killed with', async () => {
    const { pass, open, reached } = gate();
    const position = await append(50);
    await run(noting('heir', pass));
    await reached;
    const starting = run(noting('heir'));
    await admin.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and state = 'idle in transaction'`,
    );
    const second = await starting;
    expect(await second.caughtUp(position, ['heir'], 10_000)).toBe(true);
    open();
    expect(await appliedBy('heir')).toEqual(upTo(position));
  });

  it('never lets a runner claim what it left to another one', async () => {
    // Another one holds the checkpoint while this one has read a page, applies up to 10, and dies.
    const projector = await run(noting('late'));
    const watcher = openClient({ url: database.url, role: null });
    await watcher.connect();
    await admin.query('begin');
    await admin.query(`select from projection_checkpoints where name = 'late' for update`);
    const position = await append(30);
    await untilBlocked(watcher);
    await watcher.end();
    await admin.query(`insert into applied select 'late', generate_series(1, 10)`);
    await admin.query(`update projection_checkpoints set position = 10 where name = 'late'`);
    await admin.query('commit');
    const isClaimed = await projector.caughtUp(position, ['late'], 3_000);
    expect({ isClaimed, applied: await appliedBy('late') }).toEqual({
      isClaimed: true,
      applied: upTo(position),
    });
  });

  it('stops a runner whose rows have become those of another version', async () => {
    const projector = await run(noting('old'));
    const position = await append(3);
    expect(await projector.caughtUp(position)).toBe(true);
    await admin.query(`update projection_checkpoints set version = 2 where name = 'old'`);
    await append(3);
    await eventually(async () => (await statusOf(projector, 'old')).stoppedBy !== null);
    expect(await statusOf(projector, 'old')).toMatchObject({
      position,
      stoppedBy: 'its rows are of version 2 now, by another release',
    });
    expect(await appliedBy('old')).toEqual(upTo(position));
  });

  it('lets no runner move a checkpoint of another version over events of no interest', async () => {
    const projector = await run(noting('old'));
    const position = await append(3);
    expect(await projector.caughtUp(position)).toBe(true);
    await admin.query(`update projection_checkpoints set version = 2 where name = 'old'`);
    const head = await append(3, { type: 'test.other' });
    expect(await projector.caughtUp(head)).toBe(true);
    await projector.stop();
    const { rows } = await admin.query(
      `select position from projection_checkpoints where name = 'old'`,
    );
    expect(rows).toEqual([{ position: String(position) }]);
  });

  it('does not keep a second runner from starting while a page is applied', async () => {
    const { pass, reached } = gate();
    await append(5);
    await run(noting('busy', pass));
    await reached;
    const isStarted = await Promise.race([
      run(noting('busy')).then(() => true),
      sleep(2_000).then(() => false),
    ]);
    expect(isStarted).toBe(true);
  });
});

describe('a poison event', () => {
  const POISON = 'poison';
  const isPoison = ({ event }: ProjectedEvent) => event.data['note'] === POISON;
  const choking = (name: string) =>
    noting(name, (_db, events) => {
      if (events.some(isPoison)) throw new Error('cannot swallow this');
    });

  it('stops its projection loudly, steps over nothing, and lets the others go on', async () => {
    const projector = await run(choking('bad'), noting('good'));
    const before = await append(10);
    expect(await projector.caughtUp(before)).toBe(true);
    await append(1, { data: { note: POISON } });
    await eventually(async () => (await statusOf(projector, 'bad')).stoppedBy !== null);
    const after = await append(10);
    expect(await projector.caughtUp(after, ['good'])).toBe(true);
    expect(await appliedBy('good')).toEqual(upTo(after));
    expect(await appliedBy('bad')).toEqual(upTo(before));
    expect(await statusOf(projector, 'bad')).toMatchObject({
      position: before,
      lagEvents: 11n,
      stoppedBy: 'cannot swallow this',
    });
    expect(await statusOf(projector, 'good')).toMatchObject({ lagEvents: 0n, stoppedBy: null });
    expect(errors).toEqual([
      { fields: expect.objectContaining({ projection: 'bad' }), message: 'projection stopped' },
    ]);
    expect(await projector.caughtUp(after, ['bad'], 100)).toBe(false);
  });

  it('is met again after a restart, and applied once its code is mended', async () => {
    const before = await append(3);
    await append(1, { data: { note: POISON } });
    const position = await append(3);
    const first = await run(choking('mended'));
    await eventually(async () => (await statusOf(first, 'mended')).stoppedBy !== null);
    await first.stop();
    const second = await run(choking('mended'));
    await eventually(async () => (await statusOf(second, 'mended')).stoppedBy !== null);
    expect(before).toBe(3n);
    await second.stop();
    const third = await run(noting('mended'));
    expect(await third.caughtUp(position)).toBe(true);
    expect(await appliedBy('mended')).toEqual(upTo(position));
  });

  it('is not a database that goes away, however often', async () => {
    let outages = 8;
    const unlucky = noting('unlucky', async (db) => {
      if (outages === 0) return;
      outages -= 1;
      const { rows } = await db.query<{ pid: number }>('select pg_backend_pid() as pid');
      await Promise.all([
        db.query('select pg_sleep(20)'),
        admin.query('select pg_terminate_backend($1)', [rows[0]?.pid]),
      ]);
    });
    const position = await append(5);
    const projector = await run(unlucky);
    expect(await projector.caughtUp(position, ['unlucky'], 10_000)).toBe(true);
    expect(await statusOf(projector, 'unlucky')).toMatchObject({ stoppedBy: null });
    expect(await appliedBy('unlucky')).toEqual(upTo(position));
  });

  it('is not one failure that happens to come after an outage', async () => {
    let failures = 0;
    const { pool } = database;
    let isAway = false;
    const flaky: EventLog = {
      ...log,
      readAll: (range) => (isAway ? Promise.reject(new Error('ECONNREFUSED')) : log.readAll(range)),
    };
    const once = noting('once', () => {
      failures += 1;
      if (failures === 1) throw new Error('a deadlock, say');
    });
    isAway = true;
    const logger = {
      warn: () => undefined,
      error: (fields: object, message: string) => errors.push({ fields, message }),
    };
    const position = await append(5);
    const projector = await startProjector({ pool, log: flaky, logger }, [once]);
    projectors.push(projector);
    // Longer than the retries of a poison event take.
    await sleep(1_500);
    isAway = false;
    expect(await projector.caughtUp(position, ['once'], 5_000)).toBe(true);
    expect(errors).toEqual([]);
  });
});

describe('caughtUp', () => {
  it('says no in time when a projection is behind, and yes when it is there', async () => {
    const { pass, open } = gate();
    const projector = await run(noting('slow', pass));
    const position = await append(5);
    const begin = performance.now();
    expect(await projector.caughtUp(position, ['slow'], 150)).toBe(false);
    expect(performance.now() - begin).toBeGreaterThanOrEqual(140);
    expect(performance.now() - begin).toBeLessThan(2_000);
    open();
    expect(await projector.caughtUp(position, ['slow'])).toBe(true);
    expect(await appliedBy('slow')).toEqual(upTo(position));
  });

  it('waits for the named projections only', async () => {
    const { pass, open } = gate();
    const projector = await run(noting('slow', pass), noting('quick'));
    const position = await append(5);
    expect(await projector.caughtUp(position, ['quick'])).toBe(true);
    expect(await projector.caughtUp(position, undefined, 100)).toBe(false);
    open();
    expect(await projector.caughtUp(position)).toBe(true);
  });

  it('counts events of no interest as applied', async () => {
    const projector = await run(noting('idle'));
    const position = await append(20, { type: 'test.other' });
    expect(await projector.caughtUp(position)).toBe(true);
    expect(await appliedBy('idle')).toEqual([]);
  });

  it('never says yes before the rows can be read', async () => {
    const projector = await run(noting('honest', () => sleep(randomInt(5))));
    for (let round = 0; round < 40; round += 1) {
      const position = await append(1 + randomInt(4));
      expect(await projector.caughtUp(position)).toBe(true);
      expect(await appliedBy('honest')).toEqual(upTo(position));
    }
  });
});

describe('lag', () => {
  it('is told in events and in seconds, and is nothing when caught up', async () => {
    const { pass, open, reached } = gate();
    const projector = await run(noting('lagging', pass));
    expect(await statusOf(projector, 'lagging')).toMatchObject({ lagEvents: 0n, lagSeconds: 0 });
    await append(1);
    await reached;
    await append(6);
    await sleep(300);
    const { position, lagEvents, lagSeconds } = await statusOf(projector, 'lagging');
    expect({ position, lagEvents }).toEqual({ position: 0n, lagEvents: 7n });
    expect(lagSeconds).toBeGreaterThanOrEqual(0.3);
    expect(lagSeconds).toBeLessThan(30);
    open();
    expect(await projector.caughtUp(7n)).toBe(true);
    expect(await statusOf(projector, 'lagging')).toEqual({
      name: 'lagging',
      position: 7n,
      lagEvents: 0n,
      lagSeconds: 0,
      stoppedBy: null,
    });
  });
});
