import { count } from './numbers.ts';
import { clean, say, type Terminal } from './terminal.ts';

/** The kinds of damage that `log verify` and `audit verify` tell apart. */
export type DamageClass =
  | 'gap'
  | 'stream'
  | 'time'
  | 'line'
  | 'column'
  | 'disclosure'
  | 'name'
  | 'mail_domain'
  | 'head'
  | 'order'
  | 'cut'
  | 'trailer';

/** One damage; `position` is null where it has no place in the log. */
export type Problem = Readonly<{ class: DamageClass; position: string | null; detail: string }>;

export type Findings = Readonly<{
  add: (damage: DamageClass, position: bigint | null, detail: string) => void;
  /** The first hundred, in the order in which they were found. */
  problems: () => readonly Problem[];
  /** Of each class the one with the lowest position, and how many there are. */
  firstByClass: () => readonly Readonly<{ first: Problem; count: number }>[];
}>;

const PROBLEMS_MAX = 100;

/** Collects damages in bounded memory, however many there are. */
export function openFindings(): Findings {
  const problems: Problem[] = [];
  const classes = new Map<DamageClass, { first: Problem; count: number }>();
  return {
    add(damage, position, detail) {
      const problem = { class: damage, position: position?.toString() ?? null, detail };
      if (problems.length < PROBLEMS_MAX) problems.push(problem);
      const known = classes.get(damage);
      if (known === undefined) {
        classes.set(damage, { first: problem, count: 1 });
        return;
      }
      known.count += 1;
      if (placeOf(problem) < placeOf(known.first)) known.first = problem;
    },
    problems: () => problems,
    firstByClass: () =>
      [...classes.values()].sort((a, b) => (placeOf(a.first) < placeOf(b.first) ? -1 : 1)),
  };
}

/** What has no place comes last. */
const placeOf = ({ position }: Problem): number =>
  position === null ? Number.POSITIVE_INFINITY : Number(position);

/** One line for each class of damage, with its first position. */
export async function sayDamage(findings: Findings, terminal: Terminal): Promise<void> {
  for (const { first, count: times } of findings.firstByClass()) {
    const place = first.position === null ? 'at no position' : `at position ${first.position}`;
    const more = times === 1 ? '' : ` (the first of ${count(times)})`;
    await say(terminal, clean(`damaged: ${first.class} ${place}: ${first.detail}${more}`));
  }
}
