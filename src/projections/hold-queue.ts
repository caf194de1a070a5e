import type pg from 'pg';
import type { QuarantineState } from '../domain/quarantined-message.ts';

/** A message of a hold queue, as far as a comparison with that queue needs it. */
export type QueuedMessage = Readonly<{
  id: string;
  revision: bigint;
  state: QuarantineState;
  queueId: string;
  fileSize: number;
  fileMtime: string;
  isScanned: boolean;
  mailDomains: readonly number[];
}>;

const COLUMNS = `id, revision, state, queue_id, file_size, file_mtime,
  reason <> 'unscanned' as is_scanned, mail_domains`;

/** What should be in the hold queue of a node. */
export async function findInHoldQueue(
  pool: pg.Pool,
  nodeId: string,
): Promise<readonly QueuedMessage[]> {
  const { rows } = await pool.query<Row>(
    `select ${COLUMNS} from quarantined_messages
     where node_id = $1 and store = 'postfix' and is_open`,
    [nodeId],
  );
  return rows.map(toMessage);
}

/** What once was in the hold queue of a node under some queue ids, and has come to its end. */
export async function findOutOfHoldQueue(
  pool: pg.Pool,
  nodeId: string,
  queueIds: readonly string[],
): Promise<readonly QueuedMessage[]> {
  const { rows } = await pool.query<Row>(
    `select ${COLUMNS} from quarantined_messages
     where node_id = $1 and store = 'postfix' and not is_open and queue_id = any($2)`,
    [nodeId, queueIds],
  );
  return rows.map(toMessage);
}

type Row = Readonly<{
  id: string;
  revision: string;
  state: QuarantineState;
  queue_id: string;
  file_size: string;
  file_mtime: string;
  is_scanned: boolean;
  mail_domains: string[];
}>;

const toMessage = (row: Row): QueuedMessage => ({
  id: row.id,
  revision: BigInt(row.revision),
  state: row.state,
  queueId: row.queue_id,
  fileSize: Number(row.file_size),
  fileMtime: row.file_mtime,
  isScanned: row.is_scanned,
  mailDomains: row.mail_domains.map(Number),
});
