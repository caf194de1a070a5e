export type Bounds<Item> = Readonly<{
  /** Items under way at a time. */
  concurrency: number;
  /** What an item weighs, and how much may be under way at a time; a heavier item goes alone. */
  weigh: (item: Item) => number;
  weightMax: number;
}>;

/**
 * Works on items as they come, no more of them at a time than the bounds allow; the next item is
 * asked for only when there may be room for it. Rejects with the first failure, when what is under
 * way has ended.
 */
export async function forEachBounded<Item>(
  items: AsyncIterable<Item> | Iterable<Item>,
  { concurrency, weigh, weightMax }: Bounds<Item>,
  work: (item: Item) => Promise<void>,
): Promise<void> {
  const underWay = new Set<Promise<void>>();
  const failures: unknown[] = [];
  let weight = 0;
  const begin = (item: Item, itemWeight: number) => {
    weight += itemWeight;
    const job = work(item)
      .catch((error: unknown) => void failures.push(error))
      .finally(() => {
        weight -= itemWeight;
        underWay.delete(job);
      });
    underWay.add(job);
  };
  try {
    for await (const item of items) {
      const itemWeight = weigh(item);
      const isFull = () =>
        underWay.size >= concurrency || (weight > 0 && weight + itemWeight > weightMax);
      while (isFull()) await Promise.race(underWay);
      if (failures.length > 0) break;
      begin(item, itemWeight);
    }
  } finally {
    await Promise.all(underWay);
  }
  if (failures.length > 0) throw failures[0];
}
