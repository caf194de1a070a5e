import { randomInt } from 'node:crypto';
import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LOCKS } from '../../src/db/lock.ts';
import { openClient } from '../../src/db/pool.ts';
import { listCopies } from '../../src/db/projection-copies.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import type { Projection } from '../../src/projections/projection.ts';
import { type Projector, startProjector } from '../../src/projections/projector.ts';
import { rateLimitsProjection } from '../../src/projections/rate-limits.ts';
import {
  dropCopies,
  dropStaleCopies,
  rebuildProjection,
  rollBackProjection,
} from '../../src/projections/rebuild.ts';
import { RebuildRefused } from '../../src/projections/rebuild-refused.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { anEvent } from '../support/events.ts';
import { holdQueries } from '../support/hold.ts';
import { caughtUp, gate, openGates, silent } from '../support/projecting.ts';
import { makeTally, tally } from '../support/tally.ts';

let database: TestDatabase;
let pool: pg.Pool;
let log: EventLog;
let admin: pg.Client;
let clients: pg.Client[];
let projectors: Projector[];
beforeEach(async () => {
  database = await createDatabase();
  ({ pool } = database);
  await makeTally(database.url);
  log = await database.openLog();
  clients = [];
  projectors = [];
  admin = await connect();
});
afterEach(async () => {
  openGates();
  for (const projector of projectors) await projector.stop();
  for (const client of clients) await client.end();
  await database.drop();
});

async function connect(): Promise<pg.Client> {
  const client = openClient({ url: database.url, role: null });
  await client.connect();
  clients.push(client);
  return client;
}

async function append(count: number): Promise<bigint> {
  const commands = Array.from({ length: count }, () =>
    log.append({ stream: `s-${randomInt(50)}`, expected: 'any', events: [anEvent()] }),
  );
  await Promise.all(commands);
  return (await log.head()).position;
}

/** A runner that has applied everything. */
async function run(projection: Projection = tally()): Promise<Projector> {
  const projector = await caughtUp({ pool, log }, [projection]);
  projectors.push(projector);
  return projector;
}

const ask = async (sql: string): Promise<unknown[]> => (await admin.query(sql)).rows;
const rowsOf = (table = 'public.tally') => ask(`select * from ${table} order by stream`);
const totalOf = async (table = 'public.tally') => {
  const [row] = await ask(`select coalesce(sum(events), 0)::int as total from ${table}`);
  return (row as { total: number }).total;
};
const oidOf = async (table = 'public.tally') => ask(`select to_regclass('${table}')::oid as oid`);
const checkpoint = () =>
  ask(`select position::int, version from projection_checkpoints where name = 'tally'`);
const copies = async () =>
  (await listCopies(pool)).map(({ kind, version, position }) => ({ kind, version, position }));

const rebuild = (
  options: Readonly<{
    projection?: Projection;
    force?: boolean;
    onProgress?: (position: bigint, until: bigint) => void;
    pageEvents?: number;
    log?: EventLog;
  }> = {},
) => {
  const { projection = tally(), force = false, ...d } = options;
  return rebuildProjection({ pool, log, ...d }, projection, { force });
};

class Cut extends Error {}
/** Ends a rebuild at a position, as an interrupt does. */
const cutAt = (position: bigint) => (at: bigint) => {
  if (at === position) throw new Cut();
};

describe('a rebuild', () => {
  it('gives equal rows in other tables, and keeps the former ones', async () => {
    const position = await append(2_500);
    await run();
    const [before, oid] = [await rowsOf(), await oidOf()];
    const told: bigint[] = [];
    const rebuilt = await rebuild({ onProgress: (at) => told.push(at) });
    expect(rebuilt).toEqual({ position, differences: [] });
    expect(told).toEqual([1_000n, 2_000n, 2_500n]);
    expect(await rowsOf()).toEqual(before);
    expect(await totalOf()).toBe(2_500);
    expect(await oidOf()).not.toEqual(oid);
    expect(await oidOf('previous_tally.tally')).toEqual(oid);
    expect(await copies()).toEqual([{ kind: 'previous', version: 1, position }]);
  });

  it('disturbs neither its runner nor readers, and has what came meanwhile once', async () => {
    await append(1_500);
    const projector = await run();
    const { pass, open, reached } = gate();
    const rebuilding = rebuild({ projection: tally({ around: pass }), pageEvents: 300 });
    await reached;
    const position = await append(40);
    expect(await projector.caughtUp(position)).toBe(true);
    expect(await totalOf()).toBe(1_540);
    open();
    expect((await rebuilding).position).toBe(position);
    expect(await totalOf()).toBe(1_540);
    expect(await projector.caughtUp(await append(10))).toBe(true);
    expect(await totalOf()).toBe(1_550);
  });

  it('loses nothing and counts nothing twice while events keep coming', async () => {
    const projector = await run();
    let isOver = false;
    let appended = 0;
    const appending = (async () => {
      while (!isOver) {
        await append(7);
        appended += 7;
      }
    })();
    for (let round = 0; round < 4; round += 1) {
      const { differences } = await rebuild({ pageEvents: 20 });
      expect(differences).toEqual([]);
    }
    isOver = true;
    await appending;
    expect(await projector.caughtUp((await log.head()).position, undefined, 10_000)).toBe(true);
    expect(await totalOf()).toBe(appended);
    expect(appended).toBeGreaterThan(50);
  });

  it('ends where its runner is, though the log goes further', async () => {
    const position = await append(20);
    await (await run()).stop();
    await append(20);
    expect((await rebuild()).position).toBe(position);
    expect(await totalOf()).toBe(20);
    await run();
    expect(await totalOf()).toBe(40);
  });

  it('that was cut off between two pages goes on there', async () => {
    const position = await append(100);
    await run();
    await expect(rebuild({ pageEvents: 30, onProgress: cutAt(60n) })).rejects.toThrow(Cut);
    expect(await copies()).toEqual([{ kind: 'rebuild', version: 1, position: 60n }]);
    expect(await totalOf('rebuild_tally.tally')).toBe(60);
    const oid = await oidOf('rebuild_tally.tally');
    const told: bigint[] = [];
    await rebuild({ pageEvents: 30, onProgress: (at) => told.push(at) });
    expect(told).toEqual([90n, position]);
    expect(await oidOf()).toEqual(oid);
    expect(await totalOf()).toBe(100);
  });

  it('that was cut off before its flip goes on there, with what came since', async () => {
    await append(100);
    const projector = await run();
    await expect(rebuild({ onProgress: cutAt(100n) })).rejects.toThrow(Cut);
    const position = await append(5);
    await projector.caughtUp(position);
    const told: bigint[] = [];
    await rebuild({ onProgress: (at) => told.push(at) });
    expect(told).toEqual([position]);
    expect(await totalOf()).toBe(105);
  });

  it('begins anew after one of another version was cut off', async () => {
    const position = await append(100);
    await run();
    const other = { projection: tally({ version: 2, weight: 10 }), pageEvents: 30 };
    await expect(rebuild({ ...other, onProgress: cutAt(60n) })).rejects.toThrow(Cut);
    expect((await rebuild()).position).toBe(position);
    expect(await totalOf()).toBe(100);
  });

  it.each([
    ['a column', 'alter table public.tally add column note text'],
    ['an index', 'create index tally_events on public.tally (events)'],
    ['a constraint', 'alter table public.tally add constraint few check (events < 1000000)'],
    ['a privilege', 'grant select on public.tally to public'],
  ])('begins anew when the tables have got %s since one was cut off', async (_, migration) => {
    await append(100);
    await run();
    await expect(rebuild({ pageEvents: 30, onProgress: cutAt(60n) })).rejects.toThrow(Cut);
    const oid = await oidOf('rebuild_tally.tally');
    await admin.query(migration);
    await rebuild();
    expect(await oidOf()).not.toEqual(oid);
    expect(await totalOf()).toBe(100);
  });

  it('leaves what serves as it was when the fold fails', async () => {
    await append(10);
    await run();
    const oid = await oidOf();
    const failing = tally({
      around: () => {
        throw new Error('cannot swallow this');
      },
    });
    await expect(rebuild({ projection: failing })).rejects.toThrow('cannot swallow this');
    expect([await oidOf(), await totalOf()]).toEqual([oid, 10]);
  });

  it('fails for a projection that reads what is not its own', async () => {
    await append(10);
    await run();
    const nosy = tally({ around: (_, db) => db.query('select from api_keys') });
    await expect(rebuild({ projection: nosy })).rejects.toThrow('"api_keys" does not exist');
  });

  it('is refused while another one is under way', async () => {
    await append(10);
    await run();
    const { pass, open, reached } = gate();
    const first = rebuild({ projection: tally({ around: pass }) });
    await reached;
    await expect(rebuild()).rejects.toThrow(
      new RebuildRefused('Another rebuild of tally is under way.'),
    );
    open();
    await first;
    expect(await totalOf()).toBe(10);
  });

  it('ends when it finds its copy moved by another one', async () => {
    await append(100);
    await run();
    const oid = await oidOf();
    const { pass, open, reached } = gate();
    let pages = 0;
    const slow: EventLog = {
      ...log,
      async readAll(range) {
        pages += 1;
        if (pages === 3) await pass();
        return log.readAll(range);
      },
    };
    const first = rebuild({ log: slow, pageEvents: 30 });
    await reached;
    // As if the session of its lock had been lost: another one holds it, and is further when this one goes on.
    await admin.query('update projection_copies set position = 90');
    open();
    await expect(first).rejects.toThrow('Another rebuild of tally has taken over.');
    expect(await oidOf()).toEqual(oid);
  });

  it('is refused while the rows have seen more than the log holds', async () => {
    await append(10);
    await (await run()).stop();
    await admin.query('update projection_checkpoints set position = 11');
    await expect(rebuild()).rejects.toThrow('tally has applied more than the log holds.');
    expect(await copies()).toEqual([]);
  });

  it('of another version is refused while a gateway runs, and counts what differs otherwise', async () => {
    const position = await append(100);
    await (await run()).stop();
    const projection = tally({ version: 2, weight: 10 });
    const gateway = await connect();
    await gateway.query('select pg_advisory_lock($1)', [LOCKS.serve]);
    await expect(rebuild({ projection })).rejects.toThrow(
      'A gateway is running that folds version 1',
    );
    expect(await copies()).toEqual([]);
    await gateway.query('select pg_advisory_unlock_all()');
    const streams = (await rowsOf()).length;
    const { differences } = await rebuild({ projection });
    expect(differences).toEqual([{ table: 'tally', onlyOld: streams, onlyNew: streams }]);
    expect(await totalOf()).toBe(1_000);
    expect(await checkpoint()).toEqual([{ position: Number(position), version: 2 }]);
    expect(await copies()).toEqual([{ kind: 'previous', version: 1, position }]);
  });
});

describe('the gate', () => {
  async function tamper(): Promise<void> {
    await append(200);
    await run();
    const [first, second] = (await rowsOf()) as { stream: string }[];
    await admin.query('delete from tally where stream = $1', [first?.stream]);
    await admin.query('update tally set events = events + 1 where stream = $1', [second?.stream]);
  }

  it('refuses rows that differ, tells where and how many, and changes nothing', async () => {
    await tamper();
    const [rows, oid, at] = [await rowsOf(), await oidOf(), await checkpoint()];
    const refused = await rebuild().catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(RebuildRefused);
    expect((refused as RebuildRefused).differences).toEqual([
      { table: 'tally', onlyOld: 1, onlyNew: 2 },
    ]);
    expect([await rowsOf(), await oidOf(), await checkpoint()]).toEqual([rows, oid, at]);
    expect(await totalOf('rebuild_tally.tally')).toBe(200);
  });

  it('lets them pass when forced, which mends the rows without folding again', async () => {
    await tamper();
    await expect(rebuild()).rejects.toThrow(RebuildRefused);
    const told: bigint[] = [];
    const { differences } = await rebuild({ force: true, onProgress: (at) => told.push(at) });
    expect(differences).toEqual([{ table: 'tally', onlyOld: 1, onlyNew: 2 }]);
    expect(told).toEqual([]);
    expect(await totalOf()).toBe(200);
  });

  it('minds no rows that are old enough to be forgotten, and no younger ones', async () => {
    const minutesAgo = (n: number) => new Date(Date.now() - n * 60_000).toISOString();
    for (const first of [minutesAgo(200), minutesAgo(20)]) {
      const data = { reason: 'rate_limited', first, count: 3 };
      const resource = { type: 'api_key', id: '1' };
      const event = anEvent({ type: 'api_key.denied', resource, data });
      await log.append({ stream: 'api_key_usage-1', expected: 'any', events: [event] });
    }
    await run(rateLimitsProjection);
    await admin.query(`delete from rate_limit_denials where minute < now() - interval '2 hours'`);
    const again = () => rebuild({ projection: rateLimitsProjection });
    expect((await again()).differences).toEqual([]);
    await admin.query('delete from rate_limit_denials');
    await expect(again()).rejects.toMatchObject({
      differences: [{ table: 'rate_limit_denials', onlyOld: 0, onlyNew: 1 }],
    });
  });
});

describe('a flip', () => {
  it('waits for a long reader, and lets nobody wait for that', async () => {
    await append(10);
    await run();
    const [reader, other] = [await connect(), await connect()];
    await reader.query('begin');
    await reader.query('select * from tally');
    // Ten times what a flip may make others wait.
    await other.query(`set lock_timeout = '1s'`);
    let tries = 0;
    const rebuilding = rebuild({ onProgress: () => (tries += 1) });
    while (tries < 5) await other.query('select * from tally');
    await reader.query('commit');
    expect((await rebuilding).position).toBe(10n);
    expect(await totalOf()).toBe(10);
  });

  it('needs that: whoever waits for the lock without a bound keeps all others waiting (control)', async () => {
    const [reader, other, waiting] = [await connect(), await connect(), await connect()];
    await reader.query('begin');
    await reader.query('select * from tally');
    const altering = waiting.query('alter table tally set schema eventlog');
    await expect(
      (async () => {
        await other.query(`set lock_timeout = '1s'`);
        for (let n = 0; n < 1_000; n += 1) await other.query('select * from tally');
      })(),
    ).rejects.toThrow('lock timeout');
    await reader.query('commit');
    await altering;
  });

  it('is seen by statements that were prepared before it', async () => {
    await append(10);
    await run();
    const session = await pool.connect();
    const total = async () => {
      const text = 'select sum(events)::int as total from tally where events > $1';
      return (await session.query({ name: 'total', text, values: [0] })).rows;
    };
    // More often than it takes for a plan to be kept.
    for (let n = 0; n < 8; n += 1) expect(await total()).toEqual([{ total: 10 }]);
    await rebuild();
    await admin.query('delete from tally');
    expect(await total()).toEqual([{ total: null }]);
    session.release();
  });

  it('is whole for a statement that waited for it', async () => {
    await append(10);
    await run();
    const holder = await connect();
    await holder.query('begin');
    await holder.query('select from tally');
    const flipping = rebuild();
    const found: number[] = [];
    const reading = (async () => {
      for (let n = 0; n < 300; n += 1) {
        const { rows } = await pool.query('select sum(events)::int as total from tally');
        found.push(rows[0].total);
      }
    })();
    await holder.query('commit');
    await Promise.all([flipping, reading]);
    expect(new Set(found)).toEqual(new Set([10]));
  });
});

describe('a rollback', () => {
  const rollBack = (onProgress: (at: bigint) => void = () => undefined, projection = tally()) =>
    rollBackProjection({ pool, log, onProgress, pageEvents: 30 }, projection);

  it('brings the former rows back, with what came since, and is undone by another', async () => {
    await append(100);
    const projector = await run();
    await admin.query('update tally set events = events + 1000');
    await rebuild({ force: true });
    expect(await totalOf()).toBe(100);
    const tampered = (await rowsOf('previous_tally.tally')).length * 1_000;
    const position = await append(50);
    await projector.caughtUp(position);
    const told: bigint[] = [];
    expect(await rollBack((at) => told.push(at))).toEqual({ position, differences: [] });
    // What it had seen is not folded again.
    expect(told.length).toBeLessThanOrEqual(2);
    expect(await totalOf()).toBe(150 + tampered);
    expect(await copies()).toEqual([{ kind: 'previous', version: 1, position }]);
    expect(await projector.caughtUp(await append(5))).toBe(true);
    await rollBack();
    expect(await totalOf()).toBe(155);
  });

  it('that was cut off goes on there', async () => {
    await append(100);
    const projector = await run();
    await rebuild();
    // Far enough behind that some of it is folded before the lock is taken.
    for (let n = 0; n < 5; n += 1) await append(250);
    await projector.caughtUp(1_350n, undefined, 10_000);
    await expect(rollBack(cutAt(190n))).rejects.toThrow(Cut);
    expect(await copies()).toEqual([{ kind: 'previous', version: 1, position: 190n }]);
    await rollBack();
    expect(await totalOf()).toBe(1_350);
  });

  it('is refused where there is nothing to go back to', async () => {
    await append(10);
    await run();
    await expect(rollBack()).rejects.toThrow(new RebuildRefused('tally has no previous rows.'));
  });

  it('is refused when the rows are of a version that this program does not fold', async () => {
    await append(10);
    await (await run()).stop();
    const projection = tally({ version: 2 });
    await rebuild({ projection });
    await expect(rollBack(undefined, projection)).rejects.toThrow(
      'The previous rows of tally are of version 1, and this program folds 2',
    );
  });

  it('is refused when a migration has changed the tables since', async () => {
    await append(10);
    await run();
    await rebuild();
    await admin.query('alter table tally add column note text');
    await expect(rollBack()).rejects.toThrow('The tables of tally have changed');
  });
});

describe('what is left', () => {
  it('is dropped on demand: the previous rows, and a rebuild that was cut off', async () => {
    await append(100);
    await run();
    await rebuild();
    await expect(rebuild({ pageEvents: 30, onProgress: cutAt(60n) })).rejects.toThrow(Cut);
    expect(await dropCopies(pool, tally())).toEqual(['rebuild', 'previous']);
    expect(await copies()).toEqual([]);
    expect(await ask(`select nspname from pg_namespace where nspname ~ '_tally$'`)).toEqual([]);
    expect(await dropCopies(pool, tally())).toEqual([]);
    expect(await totalOf()).toBe(100);
  });

  it('is dropped after a week', async () => {
    await append(10);
    await run();
    await rebuild();
    const inDays = (days: number) => new Date(Date.now() + days * 86_400_000);
    await dropStaleCopies(pool, inDays(6));
    expect(await copies()).toHaveLength(1);
    await dropStaleCopies(pool, inDays(8));
    expect(await copies()).toEqual([]);
    expect(await oidOf('previous_tally.tally')).toEqual([{ oid: null }]);
  });

  it('is not dropped after a week when it came to be of use, and was replaced, in that moment', async () => {
    await append(20);
    await run();
    await rebuild();
    const oid = await oidOf();
    const found = holdQueries(pool, /from projection_copies where updated_at/, async () => {
      await rollBackProjection({ pool, log }, tally());
    });
    await admin.query("update projection_copies set updated_at = now() - interval '8 days'");
    const dropping = dropStaleCopies(pool, new Date());
    await found.reached;
    found.release();
    await dropping;
    expect(await copies()).toEqual([{ kind: 'previous', version: 1, position: 20n }]);
    expect(await oidOf('previous_tally.tally')).toEqual(oid);
  });

  it('is not dropped after a week while it is being folded on', async () => {
    await append(20);
    await run();
    await expect(rebuild({ onProgress: cutAt(10n), pageEvents: 10 })).rejects.toThrow(Cut);
    await admin.query("update projection_copies set updated_at = now() - interval '8 days'");
    const { pass, open, reached } = gate();
    const rebuilding = rebuild({ projection: tally({ around: pass }), pageEvents: 10 });
    await reached;
    await dropStaleCopies(pool, new Date());
    open();
    expect(await rebuilding).toEqual({ position: 20n, differences: [] });
  });
});

describe('a start', () => {
  const applied: bigint[] = [];
  beforeEach(() => {
    applied.length = 0;
  });
  const counting = (version: number, fails: () => boolean = () => false) =>
    tally({
      version,
      weight: 10 ** (version - 1),
      around(events) {
        applied.push(...events.map(({ stored }) => stored.position));
        if (fails()) throw new Cut();
      },
    });
  const start = async (projection: Projection) => {
    const projector = await startProjector({ pool, log, logger: silent }, [projection]);
    projectors.push(projector);
    return projector;
  };

  it('of a newer version folds anew and keeps the rows of the former one', async () => {
    const position = await append(50);
    await (await run()).stop();
    await start(counting(2));
    expect(await totalOf()).toBe(500);
    expect(await totalOf('previous_tally.tally')).toBe(50);
    expect(await checkpoint()).toEqual([{ position: 50, version: 2 }]);
    expect(await copies()).toEqual([{ kind: 'previous', version: 1, position }]);
  });

  it('that was killed while it folded anew goes on there', async () => {
    await append(2_500);
    await (await run()).stop();
    let pages = 0;
    await expect(start(counting(2, () => ++pages === 2))).rejects.toThrow(Cut);
    expect(await copies()).toEqual([{ kind: 'rebuild', version: 2, position: 1_000n }]);
    applied.length = 0;
    await start(counting(2));
    expect(applied[0]).toBe(1_001n);
    expect(await totalOf()).toBe(25_000);
  });

  it('of the former version takes its rows back, and folds only what came since', async () => {
    await append(50);
    await (await run()).stop();
    await (await start(counting(2))).stop();
    const position = await append(5);
    await (await run(counting(2))).stop();
    applied.length = 0;
    const back = await start(counting(1));
    expect(applied).toEqual([51n, 52n, 53n, 54n, 55n]);
    expect(await totalOf()).toBe(55);
    expect(await checkpoint()).toEqual([{ position: 55, version: 1 }]);
    expect(await copies()).toEqual([{ kind: 'previous', version: 2, position }]);
    // And the newer one likewise.
    await back.stop();
    applied.length = 0;
    await start(counting(2));
    expect(applied).toEqual([]);
    expect(await totalOf()).toBe(550);
  });

  it('on a log that was restored folds anew, compares nothing and keeps nothing', async () => {
    await append(50);
    await run();
    await rebuild();
    await projectors.splice(0)[0]?.stop();
    await admin.query('update projection_checkpoints set position = 60');
    await admin.query('update tally set events = 1000');
    await start(counting(1));
    expect(await totalOf()).toBe(50);
    expect(await checkpoint()).toEqual([{ position: 50, version: 1 }]);
    expect(await copies()).toEqual([]);
  });

  it('waits for a rebuild by hand, and does not do it again', async () => {
    await append(50);
    await (await run()).stop();
    const { pass, open, reached } = gate();
    const projection = tally({ version: 2, weight: 10, around: pass });
    const rebuilding = rebuild({ projection });
    await reached;
    const starting = start(counting(2));
    open();
    await Promise.all([rebuilding, starting]);
    expect(applied).toEqual([]);
    expect(await totalOf()).toBe(500);
  });
});
