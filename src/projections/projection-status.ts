import type { EventLog, Position } from '../eventlog/eventlog.ts';
import { readLine } from '../eventlog/upcast.ts';
import type { Projection } from './projection.ts';

/** How far a projection is behind the log, in events and in seconds. */
export type ProjectionStatus = Readonly<{
  name: string;
  position: Position;
  lagEvents: bigint;
  lagSeconds: number;
  /** Set when a poison event has stopped it; nothing is stepped over. */
  stoppedBy: string | null;
}>;

type Running = Readonly<{
  projection: Pick<Projection, 'name'>;
  position: Position;
  stoppedBy: string | null;
}>;

/** Measures every projection against the head as it is now. */
export async function readStatus(
  log: EventLog,
  running: readonly Running[],
): Promise<ProjectionStatus[]> {
  const head = await log.head();
  return Promise.all(
    running.map(async ({ projection, position, stoppedBy }) => ({
      name: projection.name,
      position,
      lagEvents: head.position > position ? head.position - position : 0n,
      lagSeconds: await readLagSeconds(log, position, head.position),
      stoppedBy,
    })),
  );
}

async function readLagSeconds(log: EventLog, position: Position, head: Position): Promise<number> {
  if (position >= head) return 0;
  const next = await log.readAll({ after: position, until: head, filter: {}, limit: 1 });
  const recordedAt =
    next.events[0] === undefined ? null : readLine(next.events[0].line).recorded_at;
  return recordedAt === null ? 0 : Math.max(0, (Date.now() - Date.parse(recordedAt)) / 1_000);
}
