import type { AuditLine } from './audit-lines.ts';

/** Whether a line, as its reader sees it, holds what is searched for. */
export type LineSearch = (line: AuditLine) => boolean;

/**
 * A search for words: each must be found somewhere in the values that the line shows, in any case. It looks at what
 * is shown and at nothing else, so that nobody learns by searching what is withheld from him.
 */
export function lineSearch(text: string): LineSearch {
  const words = folded(text)
    .split(/\s+/)
    .filter((word) => word !== '');
  return ({ cursor: _, erased: _erased, withheld: _withheld, ...shown }) => {
    const values: string[] = [];
    collect(shown, values);
    // A line feed between them: no word spans two values.
    const all = folded(values.join('\n'));
    return words.every((word) => all.includes(word));
  };
}

/** Without case, and letters with accents in one form. */
const folded = (text: string): string => text.normalize('NFC').toLowerCase();

function collect(value: unknown, values: string[]): void {
  if (typeof value === 'string') values.push(value);
  else if (typeof value === 'number' || typeof value === 'boolean') values.push(String(value));
  else if (typeof value === 'object' && value !== null) {
    for (const member of Object.values(value)) collect(member, values);
  }
}
