const CHARS_MAX = 500;

/**
 * What another program said, fit to be recorded and shown: one line of at most 500 UTF-16 units,
 * without control characters, and not cut through the middle of a character.
 */
export function oneLine(text: string): string {
  const line = text.replace(/[\p{Cc}\p{Zl}\p{Zp} ]+/gu, ' ').trim();
  return line.slice(0, CHARS_MAX).replace(/[\uD800-\uDBFF]$/, '');
}
