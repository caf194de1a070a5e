import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Reply, Sending, TestGateway } from './gateway.ts';

/** A small message; what is given replaces its parts. */
export const aMail = (subject = 'A test', body = 'Hello.\r\n'): string =>
  `From: Eve <eve@sender.example>\r\nTo: you@example.com\r\nSubject: ${subject}\r\n` +
  `Message-ID: <${subject.replace(/\W/g, '')}@sender.example>\r\n\r\n${body}`;

export type Handing = Readonly<{
  raw?: string | Uint8Array;
  from?: string;
  to?: readonly string[] | string;
  headers?: Record<string, string>;
  key?: string | null;
}>;

/** Hands a message in, as a filter with a key would. */
export async function handIn(t: TestGateway, handing: Handing = {}): Promise<Reply> {
  const { raw = aMail(), from = 'eve@sender.example', to = 'you@example.com' } = handing;
  const key = handing.key === undefined ? t.bootstrapKey : handing.key;
  const response = await fetch(`${t.url}/api/v1/mail/quarantine`, {
    method: 'POST',
    headers: {
      'Content-Type': 'message/rfc822',
      'X-Mail-From': from,
      'X-Rcpt-To': typeof to === 'string' ? to : to.join(', '),
      'X-Spam-Score': '14.7',
      ...(key === null ? {} : { 'X-API-Key': key }),
      ...handing.headers,
    },
    body: raw as string,
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: JSON.parse(text), text };
}

/** Hands a message in and gives the item back; throws when it was not taken. */
export async function held(t: TestGateway, handing: Handing = {}): Promise<any> {
  const reply = await handIn(t, handing);
  if (reply.status !== 201) throw new Error(`not held: ${reply.status} ${reply.text}`);
  return reply.body.data;
}

/** Where the bytes of a held message lie. */
export const spoolFile = ({ gateway }: TestGateway, id: string): string =>
  join(gateway.dataDir, 'spool', id.slice(-2), `${id}.eml`);

/** What is being received, or was and is neither held nor forgotten. */
export const incoming = ({ gateway }: TestGateway): string[] =>
  readdirSync(join(gateway.dataDir, 'spool', 'incoming'));

/** Does something to a message that is named by its id. */
export const actOn = (
  t: TestGateway,
  id: string,
  action: string,
  sending: Sending = {},
): Promise<Reply> =>
  t.send('POST', `/mail/quarantine/messages/${id}/${action}`, { body: {}, ...sending });

/** Everything that happened to a message, as the bootstrap key sees it. */
export async function historyOf(t: TestGateway, id: string): Promise<any[]> {
  return (await t.send('GET', `/mail/quarantine/messages/${id}/history`)).body.data;
}
