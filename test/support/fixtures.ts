import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { EventToAppend } from '../../src/eventlog/eventlog.ts';
import { type PreparedEvent, placeLine, prepareEvent } from '../../src/eventlog/line.ts';
import type { Random } from '../../src/eventlog/personal.ts';

/** One event as it was given to the log, and everything that the log made of it. */
export type Fixture = Readonly<{
  stream: string;
  event: EventToAppend;
  place: Readonly<{ position: string; revision: string; recordedAt: string }>;
  line: string;
  disclosures: Readonly<Record<'identity' | 'network' | 'content' | 'names', string | null>>;
  /** SHA-256 of a zero byte and the line, in hex. */
  leafHash: string;
}>;

export const FIXTURES = fileURLToPath(new URL('../eventlog/fixtures/', import.meta.url));

/** Every committed fixture by its file's name, `<type>.v<schema version>`. */
export const readFixtures = (): ReadonlyMap<string, Fixture> =>
  new Map(
    readdirSync(FIXTURES).map((file) => [
      file.replace(/\.json$/, ''),
      JSON.parse(readFileSync(FIXTURES + file, 'utf8')) as Fixture,
    ]),
  );

/** Bytes that look random and are the same in every run. */
export function fixedRandom(seed: string): Random {
  let calls = 0;
  return (bytes) => {
    calls += 1;
    const blocks: Buffer[] = [];
    for (let n = 0; n * 32 < bytes; n += 1) {
      blocks.push(createHash('sha256').update(`${seed}/${calls}/${n}`).digest());
    }
    return Buffer.concat(blocks).subarray(0, bytes);
  };
}

/** What the log makes of a fixture's event today. */
export function makeAgain({ stream, event, place }: Pick<Fixture, 'stream' | 'event' | 'place'>) {
  const prepared = prepareEvent(stream, event, fixedRandom(event.eventId));
  const line = placeLine(prepared, {
    position: BigInt(place.position),
    revision: BigInt(place.revision),
    recordedAt: place.recordedAt,
  });
  return { line, disclosures: disclosuresOf(prepared) };
}

const disclosuresOf = (event: PreparedEvent): Fixture['disclosures'] => ({
  identity: event.identity,
  network: event.network,
  content: event.content,
  names: event.names?.disclosures ?? null,
});
