import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { parse } from 'yaml';
import { type Answered, judgeOf, type Operation, operationsOf } from './answers.ts';
import { type Plan, plainPlan, plansOf } from './fuzz-requests.ts';
import { CALLERS, type Caller, INGEST_PASSWORD, type World } from './fuzz-world.ts';
import type { Document } from './narrowed.ts';

const contract: Document = parse(
  readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8'),
);
const judge = judgeOf(contract);

/** Every operation of the contract. */
export const operations = operationsOf(contract);

/** How often each status was answered to each operation. */
export type Tally = Map<string, Map<number, number>>;

export type Fuzzing = Readonly<{ world: World; tally: Tally; seed: number; runs: number }>;

/**
 * Sends so many requests to an operation as each caller (as a full-admin four times as many), and throws for the first answer that the contract does not
 * have: with the seed, and the smallest request that it was found for as a `curl` line.
 */
export async function fuzzOperation(fuzzing: Fuzzing, operation: Operation): Promise<void> {
  const { world, seed, runs } = fuzzing;
  const plans = plansOf(contract, operation);
  for (const caller of callersOf(operation)) {
    const property = fc.asyncProperty(plans, async (plan) => {
      const { answer, curl } = await world.send(operation, caller, plan);
      count(fuzzing.tally, operation.id, answer.status);
      const wrong = [
        ...judge(operation, answer),
        ...secretsIn(operation, answer),
        ...deadKey(caller, answer),
      ];
      if (wrong.length > 0) throw new Error(`${wrong.join('; ')}\n${curl}\n(FUZZ_SEED=${seed})`);
    });
    // Whoever may do all of it gets furthest, and so finds most.
    const numRuns = caller === 'full-admin' ? runs * 4 : runs;
    const examples: [Plan][] = [[plainPlan(operation)]];
    await fc.assert(property, { seed, numRuns, examples, includeErrorInReport: true });
  }
}

const callersOf = ({ spec }: Operation): Caller[] => {
  const takesPassword = (spec['security'] as object[]).some((one) => 'IngestPassword' in one);
  return [...CALLERS, ...(takesPassword ? (['ingest'] as const) : [])];
};

function count(tally: Tally, id: string, status: number): void {
  const statuses = tally.get(id) ?? new Map<number, number>();
  tally.set(id, statuses.set(status, (statuses.get(status) ?? 0) + 1));
}

/** Answers that may tell a secret, because they have just made it. */
const TELLING: readonly string[] = [
  'createApiKey',
  'rotateApiKey',
  'createWebhook',
  'rotateWebhookSecret',
];
const SECRET = /nmg_[0-9a-f]{64}|whsec_[A-Za-z0-9+/]{20}/;

function secretsIn({ id }: Operation, { status, text, headers }: Answered): string[] {
  const all = `${JSON.stringify(headers)}${text}`;
  if (all.includes(INGEST_PASSWORD)) return ['the ingest password is in it'];
  const mayTell = TELLING.includes(id) && status === 201;
  return !mayTell && SECRET.test(all) ? [`a secret is in it: ${SECRET.exec(all)?.[0]}`] : [];
}

/** A caller whose key has died would only ever be refused, and prove nothing. */
const deadKey = (caller: Caller, { status }: Answered): string[] =>
  status === 401 && caller !== 'nobody' && caller !== 'a false key'
    ? [`the key of ${caller} is dead`]
    : [];

/** Operations that never succeeded, so that nothing is known of their success. */
export const neverSucceeded = (tally: Tally): string[] =>
  operations
    .map(({ id }) => id)
    .filter((id) => ![...(tally.get(id)?.keys() ?? [])].some((status) => status < 300));

/** What a run has seen, for a person. */
export function figures({ tally, seed }: Fuzzing): string {
  const byStatus = new Map<number, number>();
  for (const [status, times] of [...tally.values()].flatMap((statuses) => [...statuses])) {
    byStatus.set(status, (byStatus.get(status) ?? 0) + times);
  }
  const requests = [...byStatus.values()].reduce((sum, times) => sum + times, 0);
  const answers = [...byStatus].sort(([a], [b]) => a - b).map(([s, times]) => `${s}: ${times}`);
  return (
    `fuzz: seed ${seed}, operations ${tally.size}, callers ${CALLERS.length + 1}, requests ${requests}, ` +
    `answers by status ${answers.join(', ')}`
  );
}
