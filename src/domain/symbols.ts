import type { Reason } from './quarantine-language.ts';

/** A rule that spoke about a message; its score is null when only its name was told. */
export type RatedSymbol = Readonly<{ name: string; score: number | null }>;

const SYMBOLS_MAX = 200;
const SYMBOL_NAME = /^[A-Za-z0-9_.:-]{1,128}$/;
/** `NAME(1.20) [option, option]`; what stands in brackets may come from the message. */
const SYMBOL_TEXT = /([^\s,()[\]]+)(?:\(([^()]*)\))?(?:\s*\[[^[\]]*\])?/g;

/** The symbols of a text, as rspamd writes them into a header or as bare names with commas. */
export const symbolsOfText = (text: string): readonly RatedSymbol[] =>
  [...text.matchAll(SYMBOL_TEXT)].map(([, name, score]) =>
    toSymbol({ name, score: Number.parseFloat(score ?? '') }),
  );

/** The symbol of an item of JSON, a name or an object; one without a name has an empty name. */
export function toSymbol(item: unknown): RatedSymbol {
  if (typeof item === 'string') return { name: item, score: null };
  const { name, score } = Object(item) as { name?: unknown; score?: unknown };
  return {
    name: typeof name === 'string' ? name : '',
    score: Number.isFinite(score) ? (score as number) : null,
  };
}

/** Each symbol once, as it was told first, without those whose name is none. */
export function distinctSymbols(list: readonly RatedSymbol[]): readonly RatedSymbol[] {
  const symbols = new Map<string, RatedSymbol>();
  for (const symbol of list) {
    const isNew = SYMBOL_NAME.test(symbol.name) && !symbols.has(symbol.name);
    if (isNew) symbols.set(symbol.name, symbol);
  }
  return [...symbols.values()];
}

/** The names that are kept with a message: at most 200. */
export const namesToKeep = (symbols: readonly RatedSymbol[]): readonly string[] =>
  symbols.slice(0, SYMBOLS_MAX).map(({ name }) => name);

/** rspamd's own blocklist of infected senders has `VIRUS` in its name, and has seen no virus. */
const IS_VIRUS = /^VIRUS_|^(?!RBL_).*_VIRUS/;
const IS_RBL = /^RBL_|_RBL/;

/** The gravest that symbols tell. Blocklists are the reason when they gave most of the score. */
export function reasonOf(symbols: readonly RatedSymbol[], score: number | null): Reason {
  const has = (pattern: RegExp) =>
    symbols.some((symbol) => pattern.test(symbol.name) && (symbol.score ?? 0) >= 0);
  if (has(IS_VIRUS)) return 'virus';
  if (has(/PHISH/)) return 'phishing';
  if (has(/SANDBOX/)) return 'sandbox';
  const ofRbl = symbols.filter(({ name }) => IS_RBL.test(name));
  const weigh = (some: readonly RatedSymbol[]) =>
    some.reduce((sum, symbol) => sum + Math.max(symbol.score ?? 0, 0), 0);
  const isRated = symbols.some((symbol) => symbol.score !== null);
  if (isRated ? weigh(ofRbl) * 2 > weigh(symbols) : ofRbl.length > 0) return 'rbl';
  return score === null ? 'unscanned' : 'spam';
}
