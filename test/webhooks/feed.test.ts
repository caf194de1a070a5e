import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import type { Epoch, WebhookRow } from '../../src/projections/webhooks.ts';
import { createFeed, epochAt, type Matched, matches } from '../../src/webhooks/feed.ts';
import { placeAt } from '../../src/webhooks/locate.ts';
import { startTail, type Tail } from '../../src/webhooks/tail.ts';
import { anEvent } from '../support/events.ts';

const TYPES = ['quarantine.content_read', 'mail_domain.deleted', 'audit.read', 'webhook.paused'];
const logger = { warn: () => undefined };

const History = fc.record({
  events: fc.array(fc.record({ type: fc.nat(3), domains: fc.subarray(['1', '2']) }), {
    minLength: 1,
    maxLength: 60,
  }),
  /** Where filters change, and to what. */
  changes: fc.array(
    fc.record({
      at: fc.nat(60),
      types: fc.constantFrom(['*'], [TYPES[0] ?? ''], [TYPES[1] ?? ''], TYPES.slice(0, 2)),
    }),
    { minLength: 1, maxLength: 4 },
  ),
  mailDomain: fc.constantFrom(null, 1),
  limits: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 5 }),
});

type Story = typeof History extends fc.Arbitrary<infer T> ? T : never;

async function tell({ events, changes, mailDomain }: Story) {
  const log = memoryEventLog();
  for (const [index, { type, domains }] of events.entries()) {
    const event = anEvent({
      ...{ type: TYPES[type] ?? '', mailDomains: domains },
      resource: { type: 'test', id: String(index) },
      data: {},
    });
    await log.append({ stream: `s-${index}`, expected: 'any', events: [event] });
  }
  const starts = [...new Set(changes.map(({ at }) => at))].sort((a, b) => a - b);
  const epochs: readonly Epoch[] = starts.map((at, index) => ({
    epoch: index + 1,
    after: BigInt(at),
    eventTypes: changes.find((change) => change.at === at)?.types ?? ['*'],
    skips: false,
  }));
  return { log, row: { epochs, mailDomain } as WebhookRow };
}

/** What a subscription is to have by the definition alone: event by event. */
async function byDefinition({ log, row }: Awaited<ReturnType<typeof tell>>) {
  const { position: until } = await log.head();
  const { events } = await log.readAll({ after: 0n, until, filter: {}, limit: 1_000 });
  const counts = new Map<number, number>();
  return events.flatMap(({ position, line }) => {
    const { type, mail_domains: mailDomains } = JSON.parse(line);
    const epoch = epochAt(row.epochs, position);
    if (epoch === null || !matches(row, epoch, { type, mailDomains })) return [];
    const sequence = (counts.get(epoch.epoch) ?? 0) + 1;
    counts.set(epoch.epoch, sequence);
    return [{ position, epoch: epoch.epoch, sequence }];
  });
}

const short = ({ event, epoch, sequence }: Matched) => ({
  ...{ position: event.position, epoch, sequence },
});

/** The tail as it is at the end of the log; with `isNear` it still has all of it. */
async function tailOf(log: ReturnType<typeof memoryEventLog>, isNear: boolean): Promise<Tail> {
  const { position: head } = await log.head();
  let moved: () => void = () => undefined;
  const reached = new Promise<void>((resolve) => {
    moved = resolve;
  });
  const tail = startTail(
    {
      ...{ log, logger, onMove: () => moved(), isIdle: () => !isNear },
      onChanges: async () => undefined,
    },
    0n,
  );
  await reached;
  while (tail.head() < head) await new Promise((resolve) => setImmediate(resolve));
  return tail;
}

describe('what a subscription is fed', () => {
  it.each([
    ['from the tail', true],
    ['page by page', false],
  ])('is what its filters matched where they counted, numbered without gaps, %s', (_, isNear) =>
    fc.assert(
      fc.asyncProperty(History, async (story) => {
        const told = await tell(story);
        const wanted = await byDefinition(told);
        const tail = await tailOf(told.log, isNear);
        try {
          const first = told.row.epochs[0]?.after ?? 0n;
          const from = { epoch: 1, position: first, sequence: 0 };
          const feed = createFeed({ log: told.log, tail }, () => told.row, from);
          const found: Matched[] = [];
          for (let turn = 0; feed.place().position < tail.head(); turn += 1) {
            const limit = story.limits[turn % story.limits.length] ?? 1;
            const step = await feed.next(limit);
            expect(step.length).toBeLessThanOrEqual(limit);
            found.push(...step);
            expect(turn).toBeLessThan(1_000);
          }
          expect(found.map(short)).toEqual(wanted);
        } finally {
          await tail.stop();
        }
      }),
      { numRuns: 60 },
    ),
  );

  it('is numbered the same by a replay that begins anywhere, and by a count', () =>
    fc.assert(
      fc.asyncProperty(History, fc.nat(60), async (story, start) => {
        const told = await tell(story);
        const { position: head } = await told.log.head();
        const from = BigInt(start) < head ? BigInt(start) : head;
        const wanted = (await byDefinition(told)).filter(({ position }) => position > from);
        const tail = await tailOf(told.log, false);
        try {
          const place = await placeAt(told, told.row, from);
          const feed = createFeed({ log: told.log, tail }, () => told.row, place, head);
          const found: Matched[] = [];
          for (let turn = 0; feed.place().position < head; turn += 1) {
            found.push(...(await feed.next(7)));
            expect(turn).toBeLessThan(1_000);
          }
          // Before the first epoch its filter counts, but nothing has a number.
          const numbered = found.filter(({ epoch }) => epoch > 0);
          expect(numbered.map(short)).toEqual(wanted);
          for (const { epoch, sequence } of found) expect(epoch === 0).toBe(sequence === null);
        } finally {
          await tail.stop();
        }
      }),
      { numRuns: 60 },
    ));
});
