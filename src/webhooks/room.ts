import type { Lane } from './lane.ts';
import { isFull } from './retry-set.ts';
import { PAGE_EVENTS, type Running } from './running.ts';

/** Read and not over: so far an event that takes its time lets the others go ahead. */
export const AHEAD_MAX = 10_000;

/** How many more events may be read into a lane; 0 until some of what it holds are over. */
export function roomIn({ ordering, retries }: Running, lane: Lane): number {
  if (isFull(retries)) return 0;
  // Where none goes ahead there is no use in more than a page.
  const max = ordering === 'strict' ? PAGE_EVENTS : AHEAD_MAX;
  return Math.max(0, max - lane.items.length);
}
