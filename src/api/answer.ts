import type { IncomingMessage, ServerResponse } from 'node:http';
import { CSV_CONTENT_TYPE, csvOf, wantsCsv } from './csv.ts';
import { type Envelope, JSON_TYPE, textOf } from './envelope.ts';
import { addHeader } from './headers.ts';
import type { KeptAnswer } from './idempotency.ts';
import type { Answer, AnyRoute } from './route.ts';

/** An answer that goes out in the envelope. */
type DataAnswer = Extract<Answer<unknown>, { data: unknown }>;

/** What a handler's answer says on the wire: its own status and message, or its route's. */
function toEnvelope(route: AnyRoute, answer: DataAnswer): { status: number; envelope: Envelope } {
  const status = answer.status ?? route.status ?? 200;
  const message = answer.message ?? route.message ?? 'OK';
  const { data, dataText } = answer;
  const text = dataText === undefined ? {} : { dataText };
  return { status, envelope: { data, error: null, message, ...text } };
}

/** The headers that belong to what an answer says, not to the request that it answers. */
export const headersOf = ({ revision, headers }: DataAnswer): Readonly<Record<string, string>> => ({
  ...(revision === undefined ? {} : { ETag: `"${revision}"` }),
  ...headers,
});

/** What goes out: the text as it is, a list as the table that was asked for, other data in the envelope. */
export function toText(
  route: AnyRoute,
  request: IncomingMessage,
  answer: Exclude<Answer<unknown>, 'streamed'>,
): Readonly<{ status: number; text: string; contentType: string }> {
  if ('text' in answer) return { status: 200, ...answer };
  const { status, envelope } = toEnvelope(route, answer);
  if (!wantsCsv(route, request)) return { status, text: textOf(envelope), contentType: JSON_TYPE };
  const text = csvOf(route, envelope.data as readonly unknown[]);
  return { status, text, contentType: CSV_CONTENT_TYPE };
}

export function setHeaders(
  response: ServerResponse,
  headers: Readonly<Record<string, string>>,
): void {
  for (const [name, value] of Object.entries(headers)) {
    // What was said of the route itself stands beside what its answer says.
    if (name === 'Link') addHeader(response, name, value);
    else response.setHeader(name, value);
  }
}

/** What is kept of an answer for a repetition of its request; null when it is not of that kind. */
export function toKept(route: AnyRoute, answer: Answer<unknown>): KeptAnswer | null {
  if (answer === 'streamed' || 'text' in answer) return null;
  const { status, envelope } = toEnvelope(route, answer);
  const data = answer.replay === undefined ? envelope.data : answer.replay;
  const { subject = null } = answer;
  return { status, headers: headersOf(answer), envelope: { ...envelope, data }, subject };
}
