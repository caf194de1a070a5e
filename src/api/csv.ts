import type { IncomingMessage } from 'node:http';
import { preferredType } from './accept.ts';
import type { AnyRoute } from './route.ts';
import { z } from './zod.ts';

export const CSV = 'text/csv';
export const CSV_CONTENT_TYPE = 'text/csv; charset=utf-8; header=present';

/** What every list has beside JSON, for `produces`. */
export const CSV_PAGE = {
  [CSV]:
    'The page as a table (RFC 4180): a line of names first, members of objects as `owner.type`, lists of texts ' +
    "joined by `; `, what else is nested as JSON. A text that a spreadsheet would take for a formula has a `'` before it.",
} as const;

/** A member of an object, and of the objects in it: `['owner', 'type']`. */
export type Column = readonly string[];

/** The columns that objects of a schema fill, in its order. */
export function columnsOf(schema: z.ZodType): readonly Column[] {
  const inner = withoutWrapping(schema);
  if (!(inner instanceof z.ZodObject)) return [[]];
  return Object.entries(inner.shape as Record<string, z.ZodType>).flatMap(([name, member]) =>
    columnsOf(member).map((column) => [name, ...column]),
  );
}

function withoutWrapping(schema: z.ZodType): z.ZodType {
  if (schema instanceof z.ZodNullable || schema instanceof z.ZodOptional) {
    return withoutWrapping(schema.unwrap() as z.ZodType);
  }
  return schema;
}

/** The line of names. */
export const csvHead = (columns: readonly Column[]): string =>
  toLine(columns.map((column) => column.join('.')));

/** One line a row. */
export const csvRows = (columns: readonly Column[], rows: readonly unknown[]): string =>
  rows.map((row) => toLine(columns.map((column) => cellOf(valueAt(row, column))))).join('');

/** Whether a route's answer is wanted as a table and can be had so. */
export const wantsCsv = (route: AnyRoute, request: IncomingMessage): boolean =>
  route.produces?.[CSV] !== undefined &&
  preferredType(request.headers.accept, ['application/json', CSV]) === CSV;

/** A list's data as a table, by the schema of its items. */
export function csvOf(route: AnyRoute, data: readonly unknown[]): string {
  if (!(route.reply instanceof z.ZodArray)) throw new Error(`${route.id} is no list`);
  const columns = columnsOf(route.reply.element as z.ZodType);
  return csvHead(columns) + csvRows(columns, data);
}

const toLine = (cells: readonly string[]): string => `${cells.map(quote).join(',')}\r\n`;

const quote = (cell: string): string =>
  /[",\r\n]|^\s|\s$/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;

function valueAt(row: unknown, column: Column): unknown {
  let value = row;
  for (const name of column) value = (value as Record<string, unknown> | null)?.[name];
  return value;
}

function cellOf(value: unknown): string {
  if (value === null || value === undefined) return '';
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (typeof value === 'string') return withoutFormula(value);
  const isPlainList = Array.isArray(value) && value.every((item) => typeof item !== 'object');
  return withoutFormula(isPlainList ? value.join('; ') : JSON.stringify(value));
}

/**
 * What spreadsheets take for the beginning of a formula (OWASP, CSV injection), also in its full-width form. A text
 * of ours that begins with one may hold what a stranger wrote, as a subject does.
 */
const FORMULA = /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;

const withoutFormula = (text: string): string => (FORMULA.test(text) ? `'${text}` : text);
