import type { Api } from './api-client.ts';
import type { Query } from './connection.ts';

const PAGE_ITEMS = '1000';

/** Every item of a list, page by page; for lists that fit into memory. */
export async function readPages<Item>(api: Api, path: string, query: Query = {}): Promise<Item[]> {
  const items: Item[] = [];
  let cursor: string | null = null;
  for (;;) {
    const page: Query = { ...query, limit: PAGE_ITEMS, cursor };
    const { data, headers } = await api.get(path, page);
    items.push(...(data as readonly Item[]));
    const next = headers['x-next-cursor'];
    if (headers['x-has-more'] !== 'true' || typeof next !== 'string') return items;
    cursor = next;
  }
}
