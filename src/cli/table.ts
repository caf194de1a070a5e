import { clean } from './terminal.ts';

/** Rows under upper-case headings, columns as wide as their widest cell, nothing cut off. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = [headings.map((heading) => heading.toUpperCase()), ...rows.map(cleaned)];
  const widths = headings.map((_, column) => Math.max(...cells.map((row) => widthOf(row, column))));
  return cells.map((row) => toLine(row, widths)).join('');
}

/** One row of columns whose widths are given; a longer cell pushes the next ones on. */
export const toLine = (row: readonly string[], widths: readonly number[]): string =>
  `${row
    .map((cell, column) => cell.padEnd(widths[column] ?? 0))
    .join('  ')
    .trimEnd()}\n`;

const cleaned = (row: readonly string[]): string[] => row.map(clean);
const widthOf = (row: readonly string[], column: number): number => row[column]?.length ?? 0;
