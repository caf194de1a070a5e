import { setTimeout as sleep } from 'node:timers/promises';

/** Something with many writers and a read by cursor. */
export type Raced = Readonly<{
  /** Each makes one attempt when called; answers with the ids that it committed, if any. */
  writers: readonly (() => Promise<readonly string[]>)[];
  /** The next entries behind a cursor, in order. */
  read: (after: bigint, limit: number) => Promise<readonly Readonly<{ id: string; at: bigint }>[]>;
}>;

export type RaceResult = Readonly<{
  committed: readonly string[];
  /** What each poller has seen, by its page size. */
  seen: ReadonlyMap<number, readonly Readonly<{ id: string; at: bigint }>[]>;
}>;

/**
 * Lets every writer make its attempts while a poller of each page size follows by cursor, each going on
 * from the last entry that it saw, as every forwarder does. Ends when all is written and read.
 */
export async function race(
  { writers, read }: Raced,
  { attempts, pages }: Readonly<{ attempts: number; pages: readonly number[] }>,
): Promise<RaceResult> {
  const committed: string[] = [];
  let isWriting = true;
  const poll = async (limit: number) => {
    const seen: { id: string; at: bigint }[] = [];
    let after = 0n;
    for (;;) {
      // Asked before the read, so that the last read begins after the last commit.
      const isLast = !isWriting;
      const page = await read(after, limit);
      seen.push(...page);
      after = page.at(-1)?.at ?? after;
      if (page.length === 0 && isLast) return [limit, seen] as const;
      if (page.length === 0) await sleep(1);
    }
  };
  const polling = pages.map(poll);
  const writing = writers.map(async (attempt) => {
    for (let n = 0; n < attempts; n += 1) committed.push(...(await attempt()));
  });
  try {
    await Promise.all(writing);
  } finally {
    isWriting = false;
  }
  return { committed, seen: new Map(await Promise.all(polling)) };
}
