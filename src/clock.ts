/** Time as the program sees it; tests pass their own. */
export type Clock = Readonly<{
  /** Wall clock, for what people read. */
  now: () => Date;
  /** Milliseconds that never step back, close to the wall clock's; for limits and deadlines. */
  nowMs: () => number;
}>;

export const systemClock: Clock = {
  now: () => new Date(),
  // timeOrigin plus the monotonic timer: a stepped wall clock neither fills nor empties a bucket.
  nowMs: () => Math.floor(performance.timeOrigin + performance.now()),
};

/** RFC 3339 in UTC with the six digits that every stored time has. */
export const toTimestamp = (date: Date): string => `${date.toISOString().slice(0, -1)}000Z`;

/** The same of a `timestamptz` column, in SQL. */
export const utc = (column: string): string =>
  `to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;
