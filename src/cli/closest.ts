/** Differences up to which a word counts as a slip of the fingers. */
const SLIPS_MAX = 2;

/** The word that was probably meant, or null. */
export function closest(given: string, words: readonly string[]): string | null {
  const ranked = words
    .map((word) => ({ word, slips: slipsBetween(given, word) }))
    .sort((a, b) => a.slips - b.slips);
  const best = ranked[0];
  return best !== undefined && best.slips <= SLIPS_MAX ? best.word : null;
}

/** Letters to add, drop or change to make one word of the other (Levenshtein), a row at a time. */
function slipsBetween(a: string, b: string): number {
  let above = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= b.length; column += 1) {
      const changed = (above[column - 1] ?? 0) + (a[row - 1] === b[column - 1] ? 0 : 1);
      current.push(Math.min(changed, (above[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1));
    }
    above = current;
  }
  return above[b.length] ?? 0;
}
