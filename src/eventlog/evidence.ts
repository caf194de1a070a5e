import type { EvidenceSegment, StoredEvent } from './eventlog.ts';

/** One event as evidence, as text: parsing and printing could reorder members and break its hash. */
export const evidenceText = ({ line, disclosures }: StoredEvent): string =>
  `{"line":${line},"disclosures":[${disclosures}]}`;

/** Events as lines of evidence. */
export const toEvidence = (events: readonly StoredEvent[]): Omit<EvidenceSegment, 'scannedTo'> => ({
  bytes: Buffer.from(events.map((event) => `${evidenceText(event)}\n`).join('')),
  count: events.length,
  first: events[0]?.position ?? null,
  last: events.at(-1)?.position ?? null,
});
