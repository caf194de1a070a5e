import type { LeftOut } from './mail-files.ts';
import type { Place, Refusal } from './mail-reader.ts';
import { count, counted } from './numbers.ts';
import { table } from './table.ts';
import { print, type Terminal } from './terminal.ts';

type Ended = Readonly<{
  seconds: number;
  leftOut: LeftOut;
  /** Why the import ended before its time; null when it did not. */
  stopped: string | null;
}>;

/** What an import tells; its memory does not grow with what is told. */
export type ImportReport = Readonly<{
  add: (outcome: 'imported' | 'already_there') => void;
  refuse: (place: Place, refusal: Refusal) => Promise<void>;
  refused: () => number;
  end: (ended: Ended) => Promise<void>;
}>;

const REFUSALS_SHOWN_MAX = 20;

type Tally = { imported: number; already_there: number; refused: number };
type Refused = Readonly<{ path: string; number: number | null; reason: string; why: string }>;

/** A report on standard output: a table of the first refusals, or JSON with all of them. */
export function startReport({ stdout }: Terminal, isJson: boolean): ImportReport {
  const tally: Tally = { imported: 0, already_there: 0, refused: 0 };
  const reasons: Record<string, number> = {};
  const shown: Refused[] = [];
  // Refusals are printed as they come, so that they need not be kept.
  let printed = Promise.resolve();
  return {
    add(outcome) {
      tally[outcome] += 1;
    },
    refuse({ path, number }, { reason, why }) {
      const refused = { path, number, reason, why };
      const start = tally.refused === 0 ? '{\n  "refusals": [\n    ' : ',\n    ';
      tally.refused += 1;
      reasons[reason] = (reasons[reason] ?? 0) + 1;
      if (isJson) {
        printed = printed.then(() => print(stdout, `${start}${JSON.stringify(refused)}`));
      } else if (shown.length < REFUSALS_SHOWN_MAX) shown.push(refused);
      return printed;
    },
    refused: () => tally.refused,
    async end(ended) {
      await printed;
      const text = isJson
        ? jsonEnd(tally, reasons, ended)
        : textOf(tally, { reasons, shown }, ended);
      await print(stdout, text);
    },
  };
}

const perSecond = ({ imported, already_there: there }: Tally, { seconds }: Ended): number =>
  Math.round((imported + there) / Math.max(seconds, 0.001));

/** The rest of the object whose first member is the list of refusals. */
function jsonEnd(tally: Tally, reasons: Readonly<Record<string, number>>, ended: Ended): string {
  const start = tally.refused === 0 ? '{\n  "refusals": [],\n' : '\n  ],\n';
  const rest = {
    ...tally,
    refused_by_reason: reasons,
    left_out: ended.leftOut,
    seconds: Math.round(ended.seconds * 1_000) / 1_000,
    messages_per_second: perSecond(tally, ended),
    stopped: ended.stopped,
  };
  return `${start}${JSON.stringify(rest, null, 2).slice('{\n'.length)}\n`;
}

function textOf(
  tally: Tally,
  { reasons, shown }: Readonly<{ reasons: Record<string, number>; shown: readonly Refused[] }>,
  ended: Ended,
): string {
  const { imported, already_there: there, refused } = tally;
  const rows = shown.map((one) => [placeText(one), one.reason, one.why]);
  const left = Object.entries(ended.leftOut).filter(([, n]) => n > 0);
  const more = refused > shown.length ? `The first ${shown.length}; --json has all of them.\n` : '';
  return [
    ...(refused === 0 ? [] : [table(['file', 'refused', 'why'], rows), more, '\n']),
    ...(refused === 0 ? [] : [`Refused: ${listed(Object.entries(reasons))}.\n`]),
    ...(left.length === 0 ? [] : [`Left out: ${listed(left)}.\n`]),
    `${count(imported)} imported, ${count(there)} already there, ${count(refused)} refused; ` +
      `${ended.seconds.toFixed(1)} s, ${counted(perSecond(tally, ended), 'message')}/s.\n`,
  ].join('');
}

const listed = (counts: readonly (readonly [string, number])[]): string =>
  counts.map(([what, n]) => `${count(n)} ${what}`).join(', ');

const placeText = ({ path, number }: Refused): string =>
  number === null ? path : `${path} (message ${number})`;
