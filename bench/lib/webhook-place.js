import { connect, openLog, startDatabase } from './database.js';
import { startGateway } from './gateway.js';
import { openApi } from './http-client.js';
import { cpuBetween, cpuOfFamily } from './proc.js';
import { pause } from './run.js';
import { appendHeld } from './webhook-events.js';

const SETTINGS = {
  MAILGUARD_WEBHOOK_ALLOW_CIDRS: '127.0.0.0/8',
  MAILGUARD_WEBHOOK_ALLOW_HTTP: 'true',
};
const CAUGHT_UP_MS_MAX = 120_000;
const LOOK_MS = 20;

/** The clock that all processes of a machine share, in milliseconds. */
export const now = () => Number(process.hrtime.bigint()) / 1e6;

/** A database whose log holds `count` held messages and nothing else. */
export async function startHeldLog(run, name, count) {
  const { url, pid } = await startDatabase(run.defer, run.workDir(name));
  const db = await connect(url);
  run.defer(() => db.end());
  await db.query('create extension if not exists pg_walinspect');
  const log = await openLog(run.defer, url);
  await appendHeld(log, count);
  return { url, pid, db, log };
}

/** Until the read model of the quarantine, the slowest, has all held messages. */
async function projected(db) {
  const until = now() + CAUGHT_UP_MS_MAX;
  for (;;) {
    const { rows } = await db.query(
      `select position >= (select max(position) from eventlog.events where type = 'quarantine.added') as is_there
       from projection_checkpoints where name = 'quarantine'`,
    );
    if (rows[0]?.is_there === true) return;
    if (now() > until) throw new Error('the read models do not follow the log');
    await pause(LOOK_MS);
  }
}

/** As after some minutes of rest: hint bits set, visibility map and statistics there. */
export const rest = (db) => db.query('vacuum (analyze)');

/** The gateway on such a database, and the calls that its subscriptions need. */
export async function startSender(run, { url, db }) {
  const dataDir = run.workDir('webhooks-gateway');
  const gateway = await startGateway({
    settings: { MAILGUARD_DATABASE_URL: url, MAILGUARD_DATA_DIR: dataDir, ...SETTINGS },
  });
  run.defer(gateway.stop);
  const target = { url: gateway.url, key: gateway.key() };
  const api = openApi(target);
  run.defer(api.close);
  await projected(db);
  await rest(db);
  return {
    pid: gateway.pid,
    api,
    async subscribe(url, wishes) {
      const { data } = await api.call('POST', '/webhooks', { url, ...wishes });
      return { id: data.id, secret: data.secret };
    },
    /** Each over a connection of its own, so that none waits for another. */
    async resume(webhooks) {
      const apis = webhooks.map(() => openApi(target));
      await Promise.all(
        webhooks.map(({ id }, i) => apis[i].call('POST', `/webhooks/${id}/resume`)),
      );
      for (const one of apis) one.close();
    },
    async unsubscribe(webhooks) {
      for (const { id } of webhooks) await api.call('DELETE', `/webhooks/${id}`);
    },
    /** Until everything up to a position is put down, which is a little after it has arrived. */
    async settled(webhooks, position) {
      const ids = webhooks.map(({ id }) => id);
      const until = now() + CAUGHT_UP_MS_MAX;
      for (;;) {
        const { rows } = await db.query(
          'select min(position) as position from webhook_cursors where webhook_id = any($1)',
          [ids],
        );
        if (BigInt(rows[0].position ?? 0) >= position) return;
        if (now() > until) throw new Error('a cursor does not come to the end');
        await pause(LOOK_MS);
      }
    },
  };
}

/** What some processes and a database use between two looks, per `count` of what was done. */
export async function openMeter(db, pids) {
  const look = () => Object.entries(pids).map(([name, pid]) => [name, cpuOfFamily(pid)]);
  const lsn = await insertPosition(db);
  const before = look();
  return async (count) => {
    const after = new Map(look());
    const cpu = before.map(([name, used]) => [
      `${name}Us`,
      cpuBetween(used, after.get(name)).all / count,
    ]);
    const { bytes, images } = await walSince(db, lsn);
    return { ...Object.fromEntries(cpu), wal: bytes / count, images: images / count };
  };
}

export async function insertPosition(db) {
  const { rows } = await db.query('select pg_current_wal_insert_lsn()::text as lsn');
  return rows[0].lsn;
}

/**
 * All WAL of a server since a position, whoever wrote it; `images` is what of it is whole pages, which the first
 * change of a page after a checkpoint costs, by the records themselves (pg_walinspect).
 */
export async function walSince(db, lsn) {
  const { rows } = await db.query(
    `select pg_wal_lsn_diff(here, $1::pg_lsn) as bytes, here::text as lsn
     from (select pg_current_wal_insert_lsn() as here) now`,
    [lsn],
  );
  const bytes = Number(rows[0].bytes);
  if (bytes === 0) return { bytes, images: 0 };
  // Only what is on the disk can be read back; a commit sees to that.
  await db.query('select pg_current_xact_id()');
  const { rows: sums } = await db.query(
    'select sum(fpi_size) as images from pg_get_wal_stats($1::pg_lsn, $2::pg_lsn)',
    [lsn, rows[0].lsn],
  );
  return { bytes, images: Number(sums[0].images) };
}
