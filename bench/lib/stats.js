/** The middle value; of an even number the mean of the two in the middle. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** The value that a share of the sorted values does not exceed. */
export const percentile = (sorted, share) =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];

/** Median and range of one figure over the rounds. */
export function summarize(values) {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/**
 * The ratio of two arms that ran in the same rounds: the median of the ratios of each round, which a
 * machine that gets slower from one minute to the next disturbs less than the ratio of two medians.
 */
export const ratioOf = (above, below) => summarize(above.map((value, i) => value / below[i]));

/** A number as people read it: three significant figures below 100, none of them lost above. */
export function show(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '-';
  if (typeof value !== 'number') return String(value);
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString('en-US');
  return String(Number(value.toPrecision(3)));
}

export const showRange = ({ median: middle, min, max }) =>
  `${show(middle)} [${show(min)}-${show(max)}]`;
