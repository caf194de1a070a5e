import { get, type IncomingMessage } from 'node:http';
import { anEvent } from './events.ts';
import type { TestGateway } from './gateway.ts';

export type SlowExport = Readonly<{
  response: IncomingMessage;
  /** Takes everything that still comes; says how the connection ended. */
  drain: () => Promise<{ text: string; ended: 'whole' | 'reset' }>;
}>;

/** Begins an export and takes no more of it than the sockets' buffers hold, until it is drained. */
export function openExport(
  t: TestGateway,
  key: string,
  ...[query = '', accept = 'application/x-ndjson']: readonly string[]
): Promise<SlowExport> {
  return new Promise((resolve, reject) => {
    const headers = { 'X-API-Key': key, Accept: accept };
    const url = `${t.url}/api/v1/audit/logs?${query}`;
    const request = get(url, { headers, agent: false }, (response) => {
      response.pause();
      resolve({ response, drain: () => drain(response) });
    });
    request.on('error', reject);
  });
}

function drain(response: IncomingMessage): Promise<{ text: string; ended: 'whole' | 'reset' }> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const done = (ended: 'whole' | 'reset') => () =>
      resolve({ text: Buffer.concat(chunks).toString(), ended });
    response.on('data', (chunk: Buffer) => chunks.push(chunk));
    response.once('end', done('whole'));
    response.once('error', done('reset'));
    response.resume();
  });
}

/** Enough of a log that an export of it outlasts every buffer on the way. */
export async function fillLog({ gateway }: TestGateway, count: number): Promise<void> {
  const note = 'x'.repeat(600);
  const appends = Array.from({ length: Math.ceil(count / 1_000) }, (_, index) =>
    gateway.context.log.append({
      stream: `test-fill-${index}-${performance.now()}`,
      expected: 'none',
      events: Array.from({ length: 1_000 }, () => anEvent({ data: { note } })),
    }),
  );
  await Promise.all(appends);
}
