import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import type { Context } from './context.ts';
import { routes } from './routes.ts';
import { createServer } from './server.ts';

/** Below the ten seconds after which container engines kill. */
const DRAIN_MS = 6_000;

/** Whether the server stops, and what is to be cut when it does not end by itself. */
export type Stopping = Readonly<{
  isStopping: () => boolean;
  begin: () => void;
  cutAll: () => void;
  onStop: Context['onStop'];
}>;

/** A stopping that has not begun. */
export function stopSignal(): Stopping {
  const cuts = new Set<() => void>();
  let isStopping = false;
  return {
    isStopping: () => isStopping,
    begin: () => {
      isStopping = true;
    },
    cutAll: () => {
      for (const cut of [...cuts]) cut();
    },
    onStop: (cut) => {
      cuts.add(cut);
      return () => cuts.delete(cut);
    },
  };
}

/**
 * Serves the routes where the configuration says, and pushes how to stop: answers under way may finish, what
 * could go on for long is cut. Returns the URL.
 */
export async function listen(
  context: Context,
  stops: (() => Promise<unknown>)[],
  stopping: Stopping,
): Promise<string> {
  const { config } = context;
  const server = createServer(context, routes);
  server.listen(config.port, config.host);
  await once(server, 'listening');
  stops.push(async () => {
    stopping.begin();
    const closed = once(server, 'close');
    server.close();
    server.closeIdleConnections();
    // Answers under way may finish; exports, which could go on for long, are cut after a while.
    const timer = setTimeout(() => {
      stopping.cutAll();
      server.closeAllConnections();
    }, DRAIN_MS);
    await closed;
    clearTimeout(timer);
  });
  const { port } = server.address() as AddressInfo;
  const host = config.host.includes(':') ? `[${config.host}]` : config.host;
  return `${config.tls === null ? 'http' : 'https'}://${host}:${port}`;
}
