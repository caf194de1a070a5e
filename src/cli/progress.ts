import { count } from './numbers.ts';
import type { Terminal } from './terminal.ts';

export type Progress = Readonly<{
  /** How much is done, of how much (null while nobody knows). */
  update: (done: number, total: number | null) => void;
  /** Wipes the bar away. */
  end: () => void;
}>;

/** Work that is over sooner needs no bar. */
const QUIET_MS = 1_000;
const REDRAW_MS = 100;
const BAR_CELLS = 24;
const WIPE = '\r\u001b[K';

/**
 * A progress bar on standard error, for work of more than a second that a person waits for; where
 * standard error is no terminal nothing is drawn.
 */
export function startProgress(
  { stderr }: Pick<Terminal, 'stderr'>,
  what: string,
  nowMs: () => number = () => performance.now(),
): Progress {
  const startedAt = nowMs();
  let drawnAt = 0;
  if (stderr.isTTY !== true) return { update: () => undefined, end: () => undefined };
  return {
    update(done, total) {
      const now = nowMs();
      if (now - startedAt < QUIET_MS || now - drawnAt < REDRAW_MS) return;
      drawnAt = now;
      const perSecond = Math.round((done * 1_000) / (now - startedAt));
      const text = total === null ? count(done) : `${bar(done, total)} ${count(done)}`;
      stderr.write(`${WIPE}${what}  ${text}  ${count(perSecond)}/s`, () => undefined);
    },
    end() {
      if (drawnAt > 0) stderr.write(WIPE, () => undefined);
    },
  };
}

function bar(done: number, total: number): string {
  const part = total <= 0 ? 1 : Math.min(1, Math.max(0, done / total));
  const filled = Math.round(part * BAR_CELLS);
  const percent = String(Math.floor(part * 100)).padStart(3);
  return `[${'#'.repeat(filled)}${'.'.repeat(BAR_CELLS - filled)}] ${percent}%`;
}
