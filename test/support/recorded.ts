import type { Json } from '../../src/domain/decider.ts';
import { openDisclosure, splitDisclosures } from '../../src/eventlog/personal.ts';
import { type RecordedEvent, readLine } from '../../src/eventlog/upcast.ts';
import type { Reply, TestGateway } from './gateway.ts';

/** A stored event, with what is still disclosed of it by member. */
export type Recorded = RecordedEvent & Readonly<{ disclosed: Readonly<Record<string, Json>> }>;

/** Recorded in their own time, whoever else does what: use in windows, readings of the log, what the clock ends. */
const BY_THE_WAY = new Set([
  'api_key.used',
  'api_key.denied',
  'api_key.expired',
  'audit.read',
  'audit.exported',
]);

export const headOf = async ({ gateway }: TestGateway): Promise<bigint> =>
  (await gateway.context.log.head()).position;

/** Every event behind a position. */
export async function allSince(t: TestGateway, after: bigint): Promise<Recorded[]> {
  const { log } = t.gateway.context;
  const until = await headOf(t);
  const page = await log.readAll({ after, until, filter: {}, limit: 1_000_000 });
  return page.events.map(({ line, disclosures }) => ({
    ...readLine(line),
    disclosed: Object.fromEntries(
      splitDisclosures(disclosures)
        .map(openDisclosure)
        .map(({ name, value }) => [name, value]),
    ),
  }));
}

/** The facts behind a position: what was decided, without what is recorded by the way. */
export async function factsSince(t: TestGateway, after: bigint): Promise<Recorded[]> {
  return (await allSince(t, after)).filter(({ type }) => !BY_THE_WAY.has(type));
}

/** What a request answered, and the facts it recorded. */
export async function recording(
  t: TestGateway,
  act: () => Promise<Reply>,
): Promise<{ reply: Reply; facts: Recorded[] }> {
  const before = await headOf(t);
  const reply = await act();
  return { reply, facts: await factsSince(t, before) };
}

/** Turns the open windows of use into events, and gives those that are. */
export async function flushWindows(t: TestGateway, after: bigint): Promise<Recorded[]> {
  await t.gateway.context.activity.flush(true);
  return (await allSince(t, after)).filter(({ type }) => /^api_key\.(used|denied)$/.test(type));
}

export const typesOf = (events: readonly RecordedEvent[]): string[] =>
  events.map(({ type }) => type);
