import { openClient } from '../../src/db/pool.ts';
import type { TestDatabase } from './database.ts';

/** Where a text stands in the database: plain, in base64 at any of the three alignments, or in hex. */
export async function tracesOf({ url }: TestDatabase, text: string): Promise<string[]> {
  const base64 = [0, 1, 2].map((shift) =>
    Buffer.from('x'.repeat(shift) + text)
      .toString('base64url')
      .slice(shift === 0 ? 0 : 4, -4),
  );
  const needles = [text, ...base64, Buffer.from(text).toString('hex')];
  const client = openClient({ url, role: null });
  await client.connect();
  try {
    const { rows: tables } = await client.query<{ name: string }>(
      `select format('%I.%I', schemaname, tablename) as name from pg_tables
       where schemaname not in ('pg_catalog', 'information_schema')`,
    );
    const found: string[] = [];
    for (const { name } of tables) {
      const { rows } = await client.query<{ t: string }>(`select t::text from ${name} t`);
      if (rows.some((row) => needles.some((needle) => row.t.includes(needle)))) found.push(name);
    }
    return found.toSorted();
  } finally {
    await client.end();
  }
}
