import type { Position } from '../eventlog/eventlog.ts';
import type { Context } from './context.ts';
import type { Bound, CursorPlace } from './cursor.ts';
import { invalid } from './input.ts';
import { PositionText, Timestamp } from './schemas.ts';
import { z } from './zod.ts';

/** A place in the log that an event stands at, or a time. */
export const LogPlace = z.union([
  z.strictObject({ position: PositionText }),
  z.strictObject({ at: Timestamp }),
]);

/** The position that a cursor stands at to begin with what is at, or was recorded at or behind, a place. */
export async function positionBefore(
  { log }: Context,
  place: z.output<typeof LogPlace>,
  path: string,
): Promise<Position> {
  if ('at' in place) return log.positionBefore(place.at);
  const position = BigInt(place.position);
  const { position: head } = await log.head();
  if (position > head + 1n)
    throw invalid([{ path, message: `lies beyond the log's end, ${head}` }]);
  return position > 0n ? position - 1n : 0n;
}

/** How a reader of the log says where to begin: a cursor, or behind a known position. */
type Asked = Readonly<{ cursor?: string | undefined; after?: string | undefined }>;

/** Refuses both at once. */
export function requireOneStart({ cursor, after }: Asked): void {
  if (cursor === undefined || after === undefined) return;
  throw invalid([{ path: 'after', message: 'cannot be combined with cursor' }]);
}

/** Where a cursor or a position puts the reader; null where neither was given. */
export function startAsked(
  { cursors }: Context,
  { cursor, after }: Asked,
  { bound, head }: Readonly<{ bound: Bound; head: Position }>,
): CursorPlace | null {
  if (cursor !== undefined) return cursors.decode(bound, cursor, head);
  if (after === undefined) return null;
  return { position: cursors.requireInLog(BigInt(after), head), numbering: null };
}
