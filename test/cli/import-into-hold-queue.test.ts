import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type PostfixGateway, startPostfixGateway } from '../support/postfix-gateway.ts';
import { factsSince, headOf } from '../support/recorded.ts';
import { callerOf, mailguard, temporary } from './support.ts';

let g: PostfixGateway;
const folder = temporary();
beforeAll(async () => {
  g = await startPostfixGateway();
  mkdirSync(join(folder, 'spam'));
  const mail = 'From: a@example.org\r\nTo: you@example.com\r\nSubject: x\r\n\r\nHello.\r\n';
  writeFileSync(join(folder, 'spam', '1.eml'), mail);
});
afterAll(async () => g?.stop());

it.each([
  ['quarantine import', ['quarantine', 'import', folder]],
  ['demo', ['demo', '--corpus', folder]],
])('%s: 2 where Postfix holds the mail, and nothing is made', async (_, argv) => {
  const before = await headOf(g.gateway());
  const { code, stderr } = await mailguard(argv, { env: callerOf(g.gateway()) });
  expect(stderr).toContain('Mail of this gateway is held by Postfix');
  expect(code).toBe(2);
  expect(await factsSince(g.gateway(), before)).toEqual([]);
});
