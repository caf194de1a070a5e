import { readCidrs, toSingle } from '../cidr-text.ts';
import type { Principal } from '../domain/access.ts';
import { type AllowedCidrs, allows } from '../domain/cidr.ts';
import type { EventLog, StoredEvent } from '../eventlog/eventlog.ts';
import { openDisclosures } from '../eventlog/personal.ts';
import type { RecordedEvent } from '../eventlog/upcast.ts';

/** Whether a key may be used from an address; one that is no address is never allowed. */
export function isAllowedFrom(
  { allowedCidrs }: Pick<Principal, 'allowedCidrs'>,
  address: string,
): boolean {
  if (allowedCidrs === null) return true;
  const single = toSingle(address);
  return single !== null && allows(allowedCidrs, single);
}

/** What the disclosures of an event tell as its blocks; null when they tell none, or none any more. */
export function disclosedCidrs({ disclosures }: Pick<StoredEvent, 'disclosures'>): unknown {
  return openDisclosures(disclosures).get('allowed_cidrs') ?? null;
}

/**
 * Where a key may be used from, as its whole stream tells it. A list that the lines promise and that is erased is
 * an empty one: what nobody knows any more allows nothing.
 */
export async function readAllowedCidrs(
  log: EventLog,
  events: readonly RecordedEvent[],
): Promise<AllowedCidrs> {
  const setting = events.findLast(({ data }) => typeof data['restricted'] === 'boolean');
  if (setting === undefined || setting.data['restricted'] === false) return null;
  const [stored] = await log.readStream(setting.stream, BigInt(setting.revision), 1);
  return stored === undefined ? [] : readCidrs(disclosedCidrs(stored));
}
