import type {
  AddedData,
  QuarantineEvent,
  TransferResult,
} from '../../src/domain/quarantine-language.ts';

export const NOW = '2026-05-01T07:42:13.000000Z';

/** A message for three recipients: numbers 0 and 1 in mail domain 7, number 2 in none. */
export const addedData: AddedData = {
  node_id: 'node-1',
  queue_id: '4Zp7Kq2rXyz1',
  store: 'spool',
  size_bytes: 48_213,
  sha256: '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08',
  score: 17.35,
  symbols: ['BAYES_SPAM'],
  reason: 'spam',
  arrived_at: NOW,
  expires_at: '2026-05-31T07:42:13.000000Z',
  recipients_of: [
    { mail_domain: '7', count: 2 },
    { mail_domain: null, count: 1 },
  ],
};
export const added: QuarantineEvent = { type: 'quarantine.added', data: addedData };
export const releaseAsked = (recipients: readonly number[] | null = null): QuarantineEvent => ({
  type: 'quarantine.release_requested',
  data: { recipients, allow_sender: null },
});
export const bounceAsked: QuarantineEvent = { type: 'quarantine.reject_requested', data: {} };

export type Fared = TransferResult['outcome'];
const CODES: Readonly<Record<Fared, number | null>> = {
  accepted: 250,
  deferred: 451,
  refused: 550,
  unknown: null,
};

/** How recipients fared, by number, as a try tells it. */
export const results = (outcomes: Readonly<Record<number, Fared>>): TransferResult[] =>
  Object.entries(outcomes).map(([recipient, outcome]) => ({
    recipient: Number(recipient),
    outcome,
    code: CODES[outcome],
  }));
