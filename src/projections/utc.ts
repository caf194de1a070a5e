/** A timestamp column as text in SQL: RFC 3339 in UTC with six digits, as everywhere in the log. */
export const utc = (column: string): string =>
  `to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;
