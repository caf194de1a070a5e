import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

/**
 * A process of its own that does what it is told, one order at a time. Rejects with what went wrong
 * there, also when the process ends.
 * @param {string} name of a program beside this file that calls `serveOrders`
 */
export function startWorker({ defer }, name) {
  const child = fork(fileURLToPath(new URL(name, import.meta.url)), {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const exited = once(child, 'exit');
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill();
    await exited;
  };
  defer(stop);
  return {
    pid: child.pid,
    stop,
    async ask(order) {
      const answered = once(child, 'message');
      child.send(order);
      const [{ found, error }] = await Promise.race([
        answered,
        exited.then(() => [{ error: `${name} has ended` }]),
      ]);
      if (error !== undefined) throw new Error(error);
      return found;
    },
  };
}

/**
 * The worker's side: a function per kind of order, which is told by the order's member `do`.
 * @param {Record<string, (order: any) => unknown>} doers
 */
export function serveOrders(doers) {
  process.on('message', async (order) => {
    try {
      process.send({ found: (await doers[order.do](order)) ?? null });
    } catch (error) {
      process.send({ error: error?.stack ?? String(error) });
    }
  });
  process.once('disconnect', () => process.exit());
}
