import type pg from 'pg';
import type { HeadSignal } from './follow.ts';

const RECONNECT_MS = 1_000;

/**
 * Listens for appends of other processes and tells the signal. Only a hint: while the connection is
 * away notifications are lost, and followers find the head by looking.
 */
export function listen(
  connect: () => pg.Client,
  signal: HeadSignal,
): { close: () => Promise<void> } {
  let client: pg.Client | null = null;
  let timer: NodeJS.Timeout | null = null;
  let isClosed = false;

  const reopenLater = () => {
    if (!isClosed) timer ??= setTimeout(() => void open(), RECONNECT_MS);
  };

  async function open(): Promise<void> {
    timer = null;
    const fresh = connect();
    fresh.once('end', () => {
      client = null;
      reopenLater();
    });
    // Anybody who may connect may notify, so nothing is read from it.
    fresh.on('notification', () => signal.hint());
    try {
      await fresh.connect();
      await fresh.query('listen mailguard_log');
      client = fresh;
      if (isClosed) await fresh.end();
    } catch {
      await fresh.end().catch(() => undefined);
      reopenLater();
    }
  }

  void open();
  return {
    async close() {
      isClosed = true;
      if (timer !== null) clearTimeout(timer);
      await client?.end();
    },
  };
}
