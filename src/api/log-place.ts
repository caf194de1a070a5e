import type { Position } from '../eventlog/eventlog.ts';
import type { Context } from './context.ts';
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
