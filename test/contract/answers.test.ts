import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { type Answered, judgeOf, operationsOf } from './answers.ts';

const contract = parse(readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8'));
const judge = judgeOf(contract);
const operations = new Map(operationsOf(contract).map((one) => [one.id, one]));

const domain = {
  id: 1,
  name: 'a.example',
  direction: 'inbound',
  active: true,
  backend_servers: [],
  quarantine_threshold: 5,
  reject_threshold: 15,
  dkim_active: false,
  dmarc_reporting: false,
  tenant_id: null,
  quarantine_retention_days: 30,
  created_at: '2026-05-01T07:42:13.000000Z',
  updated_at: '2026-05-01T07:42:13.000000Z',
};
const HEADERS = { 'content-type': 'application/json; charset=utf-8', 'x-request-id': 'r' };
const answer = (body: unknown, more: Partial<Answered> = {}): Answered => ({
  status: 200,
  headers: HEADERS,
  text: JSON.stringify(body),
  ...more,
});
const told = (data: unknown, more: Partial<Answered> = {}) =>
  judge(operations.get('getMailDomain')!, answer({ data, error: null, message: 'OK' }, more));

describe('the judge of answers', () => {
  it('has nothing against what the contract has', () => {
    expect(told(domain)).toEqual([]);
    const refused = { data: null, error: 'not_found', message: 'No.' };
    const reply = answer(refused, { status: 404 });
    expect(judge(operations.get('getMailDomain')!, reply)).toEqual([]);
  });

  it.each<[string, string[], RegExp]>([
    ['a status that is not documented', told(domain, { status: 201 }), /status 201 is not/],
    ['a 500', told(domain, { status: 500 }), /status 500/],
    ['a 503 without Retry-After', told(domain, { status: 503 }), /no Retry-After/],
    [
      'an answer without a request id',
      told(domain, { headers: { 'content-type': 'application/json' } }),
      /no X-Request-Id/,
    ],
    [
      'another media type',
      told(domain, { headers: { ...HEADERS, 'content-type': 'text/html' } }),
      /as text\/html is not documented/,
    ],
    ['a member of another type', told({ ...domain, id: '1' }), /data\/id must be integer/],
    ['a value of no enum', told({ ...domain, direction: 'both' }), /data\/direction must be equal/],
    ['a time that is none', told({ ...domain, created_at: 'today' }), /must match format/],
    [
      'a member that nobody documented',
      told({ ...domain, note: 1 }),
      /data.note is not documented/,
    ],
    [
      'a member beside the three of the envelope',
      judge(
        operations.get('getMailDomain')!,
        answer({ data: domain, error: null, message: '', next: 1 }),
      ),
      /200.next is not documented/,
    ],
    [
      'a member that is missing',
      told(Object.fromEntries(Object.entries(domain).slice(1))),
      /must have required property 'id'/,
    ],
    [
      'a code of no contract',
      judge(
        operations.get('getMailDomain')!,
        answer({ data: null, error: 'gone_fishing', message: '' }, { status: 404 }),
      ),
      /error must be equal to one of the allowed values/,
    ],
  ])('finds %s', (_, wrong, expected) => {
    expect(wrong).toContainEqual(expect.stringMatching(expected));
  });
});
