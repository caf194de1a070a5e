import { createHash } from 'node:crypto';
import type { Reason } from '../domain/quarantine-language.ts';

/** What a mail server and a filter would have said of a mail. */
export type Verdict = Readonly<{
  /** Which of the demo's mail domains it is for. */
  domain: number;
  /** Local parts of the recipients. */
  to: readonly string[];
  /** Null when no filter has looked. */
  score: number | null;
  reason: Reason;
  symbols: readonly string[];
}>;

const PEOPLE = ['anna', 'ben', 'clara', 'david', 'emma', 'finn', 'office', 'sales', 'support'];
/** How much of the mail each mail domain gets. */
const DOMAIN_SHARES = [4, 3, 2, 1];

type Share = Readonly<{ reason: Reason; share: number; symbols: readonly string[] }>;

const SPAM: readonly Share[] = [
  { reason: 'spam', share: 60, symbols: ['BAYES_SPAM', 'FUZZY_DENIED'] },
  { reason: 'phishing', share: 14, symbols: ['PHISHING', 'HTTP_TO_IP', 'BAYES_SPAM'] },
  { reason: 'rbl', share: 14, symbols: ['RBL_SPAMHAUS_SBL', 'RBL_SENDERSCORE'] },
  { reason: 'policy', share: 6, symbols: ['DMARC_POLICY_REJECT', 'R_SPF_FAIL'] },
  { reason: 'virus', share: 4, symbols: ['CLAM_VIRUS'] },
  { reason: 'sandbox', share: 2, symbols: ['SANDBOX_SUSPICIOUS'] },
];
const HAM: readonly Share[] = [
  { reason: 'spam', share: 60, symbols: ['MAILLIST', 'FORGED_SENDER', 'R_BAD_CTE_7BIT'] },
  { reason: 'policy', share: 20, symbols: ['DMARC_POLICY_QUARANTINE', 'R_SPF_SOFTFAIL'] },
  { reason: 'unscanned', share: 20, symbols: [] },
];
const OFTEN_SPAM = [
  'HFILTER_HELO_BAREIP',
  'MIME_HTML_ONLY',
  'MISSING_MID',
  'R_DKIM_NA',
  'RDNS_NONE',
];
const OFTEN_HAM = ['R_SPF_ALLOW', 'R_DKIM_NA', 'RCVD_COUNT_SEVEN', 'MIME_GOOD', 'PRECEDENCE_BULK'];

/** A verdict that fits the kind of mail: always the same one for the same bytes. */
export function verdictOn(bytes: Buffer, isSpam: boolean): Verdict {
  const random = randomFrom(bytes);
  const domain = chooseBy(
    DOMAIN_SHARES.map((share, index) => ({ share, index })),
    random,
  ).index;
  const first = pick(PEOPLE, random);
  const second = random() < 0.15 ? [pick(PEOPLE, random)] : [];
  const { reason, symbols } = chooseBy(isSpam ? SPAM : HAM, random);
  const often = (isSpam ? OFTEN_SPAM : OFTEN_HAM).filter(() => random() < 0.4);
  const least = isSpam ? 10 : 5;
  const score = Math.round((least + random() ** 2 * (isSpam ? 25 : 8)) * 10) / 10;
  const isUnscanned = reason === 'unscanned';
  return {
    domain,
    to: [...new Set([first, ...second])],
    score: isUnscanned ? null : score,
    reason,
    symbols: isUnscanned ? [] : [...symbols, ...often],
  };
}

function chooseBy<T extends Readonly<{ share: number }>>(
  shares: readonly T[],
  random: () => number,
): T {
  let left = random() * shares.reduce((sum, { share }) => sum + share, 0);
  const chosen = shares.find(({ share }) => {
    left -= share;
    return left < 0;
  });
  return chosen ?? (shares[0] as T);
}

const pick = (list: readonly string[], random: () => number): string =>
  list[Math.floor(random() * list.length)] ?? '';

/** Numbers from 0 to 1 that look random: Mulberry32 (Tommy Ettinger), begun with a hash. */
function randomFrom(bytes: Buffer): () => number {
  let state = createHash('sha256').update(bytes).digest().readInt32LE(0);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
