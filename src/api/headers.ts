import type { ServerResponse } from 'node:http';

/** Adds a value to a header that is a list (RFC 9110 5.3), beside what others have put there. */
export function addHeader(response: ServerResponse, name: string, value: string): void {
  const before = response.getHeader(name);
  response.setHeader(name, before === undefined ? value : `${String(before)}, ${value}`);
}
