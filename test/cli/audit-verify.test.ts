import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canonicalJson } from '../../src/eventlog/canonical.ts';
import { anEvent } from '../support/events.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { callerOf, mailguard, temporary } from './support.ts';

type Entry = { line: any; disclosures: string[] };

let t: TestGateway;
let lines: string[];
let trailer: { trailer: any };
const dir = temporary();
let files = 0;
const write = (content: string | Buffer) => {
  files += 1;
  const file = join(dir, `export-${files}`);
  writeFileSync(file, content);
  return file;
};
const exportTo = async (...options: string[]) => {
  const file = write('');
  const { code } = await mailguard(['audit', 'export', '--out', file, ...options], {
    env: callerOf(t),
  });
  expect(code).toBe(0);
  return file;
};
const verify = async (file: string, ...options: string[]) => {
  const { code, stdout, stderr } = await mailguard(['audit', 'verify', file, '--json', ...options]);
  return { code, stderr, verdict: stdout === '' ? null : JSON.parse(stdout) };
};

beforeAll(async () => {
  t = await startTestGateway();
  const { id } = await t.createKey();
  await t.send('POST', `/auth/api-keys/${id}/revoke`, { body: { reason: 'gone' } });
  await t.send('DELETE', `/auth/api-keys/${id}`);
  const { log } = t.gateway.context;
  for (const stream of ['test-1', 'test-2']) {
    const events = Array.from({ length: 40 }, (_, n) => anEvent({ data: { note: `line ${n}` } }));
    await log.append({ stream, expected: 'none', events });
  }
  const texts = readFileSync(await exportTo(), 'utf8')
    .trimEnd()
    .split('\n');
  trailer = JSON.parse(texts.pop() ?? '');
  lines = texts;
});
afterAll(() => t.close());

const whole = (changed: readonly string[], end: object | null = trailer) =>
  [...changed, ...(end === null ? [] : [JSON.stringify(end)]), ''].join('\n');
/** The export with one line changed, written as evidence is. */
const edited = (at: number, edit: (entry: Entry) => void) => {
  const entry = JSON.parse(lines[at] ?? '') as Entry;
  edit(entry);
  const text = `{"line":${canonicalJson(entry.line)},"disclosures":${JSON.stringify(entry.disclosures)}}`;
  return whole(lines.with(at, text));
};
/** These lines, with a trailer that was made to match. */
const recounted = (left: readonly string[]) => {
  const last_position: string = JSON.parse(left.at(-1) ?? '').line.position;
  return whole(left, { trailer: { ...trailer.trailer, count: left.length, last_position } });
};
/** The number of the line of the first event of `test-2`. */
const second = () => lines.findIndex((text) => text.includes('"stream":"test-2"'));

describe('audit verify of a sound export', () => {
  it('is 0, also after an erasure, with what is not disclosed counted', async () => {
    const { code, stderr, verdict } = await verify(write(whole(lines)));
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(verdict).toMatchObject({
      ok: true,
      signed: false,
      events: lines.length,
      first: '1',
      last: String(lines.length),
      problems: [],
    });
    expect(verdict.disclosures).toBeGreaterThan(160);
    // Name and prefix of the key that was deleted.
    expect(verdict.undisclosed).toBeGreaterThanOrEqual(2);
  });

  it('is a sentence without --json, and asks no server', async () => {
    const { code, stdout } = await mailguard(['audit', 'verify', write(whole(lines))], { env: {} });
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^Sound: \d+ events in \d+ streams, positions 1 to \d+, \d+ disclosures, \d+ not disclosed\.\nNot signed: .+\n$/,
    );
  });

  it.each<[string, () => string, string[], string]>([
    [
      'an edit that fits, which it does not see',
      () => edited(second(), ({ line }) => Object.assign(line.data, { note: 'forged' })),
      [],
      'An edit that keeps the form and the digests of a line is not seen,',
    ],
    [
      'an end that was cut off and counted anew, which it does not see',
      () => recounted(lines.slice(0, -2)),
      [],
      'nor are lines left out at its ends with a trailer to match.',
    ],
    [
      'lines left out of a filtered one, which it does not see',
      () => recounted(lines.toSpliced(3, 1)),
      ['--filtered'],
      'nor are lines left out with a trailer to match.',
    ],
  ])('says that nobody has signed it: %s', async (_, content, options, said) => {
    const argv = ['audit', 'verify', write(content()), ...options];
    const { code, stdout } = await mailguard(argv, { env: {} });
    expect([code, stdout]).toEqual([0, expect.stringContaining('\nNot signed: ')]);
    expect(stdout).toContain(said);
  });

  it('is 0 of a packed one, of a part in time, and of nothing', async () => {
    expect((await verify(write(gzipSync(whole(lines))))).code).toBe(0);
    const { recorded_at } = JSON.parse(lines[5] ?? '').line;
    expect((await verify(await exportTo('--from', recorded_at))).code).toBe(0);
    const none = await exportTo('--to', '1980-01-01T00:00:00Z');
    expect(await verify(none)).toMatchObject({ code: 0, verdict: { events: 0, first: null } });
  });

  it('is 0 of a filtered one with --filtered, and 1 without', async () => {
    const headers = { Accept: 'application/x-ndjson' };
    const { text } = await t.send('GET', '/audit/logs?form=evidence&q=line', { headers });
    const file = write(
      text
        .split('\n')
        .filter((_, n) => n !== 3)
        .join('\n')
        .replace('"count":80', '"count":79'),
    );
    expect((await verify(file, '--filtered')).verdict.problems).toEqual([]);
    expect((await verify(file)).verdict.problems[0]).toMatchObject({ class: 'gap' });
  });
});

describe('audit verify of a damaged export', () => {
  const damages: [string, () => string | Buffer, string, () => string][] = [
    ['a line left out', () => whole(lines.toSpliced(3, 1)), 'gap', () => '4'],
    ['a line twice', () => whole(lines.toSpliced(3, 0, lines[3] ?? '')), 'order', () => '4'],
    [
      'two lines the other way round',
      () => whole(lines.with(3, lines[4] ?? '').with(4, lines[3] ?? '')),
      'order',
      () => '4',
    ],
    ['the end cut off', () => whole(lines).slice(0, -60), 'cut', () => String(lines.length + 1)],
    ['no trailer', () => whole(lines, null), 'cut', () => String(lines.length + 1)],
    [
      'a packed file cut off',
      () => gzipSync(whole(lines)).subarray(0, -30),
      'cut',
      () => expect.stringMatching(/^\d+$/),
    ],
    [
      'the last lines left out and their trailer kept',
      () => whole(lines.slice(0, -2)),
      'trailer',
      () => String(lines.length - 2),
    ],
    [
      'a trailer with a member of another name',
      () => whole(lines).replace('"tree_size"', '"tree_rize"'),
      'trailer',
      () => String(lines.length),
    ],
    [
      'something behind the trailer',
      () => `${whole(lines)}${lines[0]}\n`,
      'trailer',
      () => String(lines.length),
    ],
    [
      'a line that is not canonical',
      () => whole(lines.with(2, (lines[2] ?? '').replace('{"line":{', '{"line":{ '))),
      'line',
      () => '3',
    ],
    [
      'a line with a member more',
      () => edited(2, ({ line }) => Object.assign(line, { note: 1 })),
      'line',
      () => '3',
    ],
    [
      'a line with something around it',
      () => whole(lines.with(2, (lines[2] ?? '').replace(/\}$/, ',"more":1}'))),
      'line',
      () => '3',
    ],
    ['a line that is none', () => whole(lines.with(2, '{"half":')), 'line', () => '3'],
    [
      'another value in the place of a disclosed one',
      () =>
        edited(second(), ({ disclosures }) => {
          disclosures[0] = Buffer.from('["salt","ip","203.0.113.9"]').toString('base64url');
        }),
      'disclosure',
      () => String(second() + 1),
    ],
    [
      'an event of a stream made another revision',
      () => edited(second() + 2, ({ line }) => Object.assign(line, { revision: '7' })),
      'stream',
      () => String(second() + 3),
    ],
    [
      'a time before that of the line before',
      () =>
        edited(second(), ({ line }) =>
          Object.assign(line, { recorded_at: '2020-01-01T00:00:00.000000Z' }),
        ),
      'time',
      () => String(second() + 1),
    ],
  ];

  it.each(damages)('is 1: %s', async (_, damaged, kind, position) => {
    const { code, stderr, verdict } = await verify(write(damaged()));
    expect(code).toBe(1);
    expect(verdict.ok).toBe(false);
    expect(verdict.problems).toContainEqual({
      class: kind,
      position: position(),
      detail: expect.any(String),
    });
    expect(stderr).toContain(`damaged: ${kind} at position `);
  });

  it('is 0 when only the values of a line are kept back, as after an erasure', async () => {
    const file = write(edited(second(), (entry) => Object.assign(entry, { disclosures: [] })));
    expect((await verify(file)).code).toBe(0);
  });
});

describe('audit verify of something else', () => {
  it.each([
    ['a readable export', () => exportTo('--form', 'readable')],
    ['a file that is no export', async () => write('hello\n')],
    ['a directory', async () => dir],
    ['a file that is not there', async () => join(dir, 'nowhere')],
    [
      'an export with a tree',
      async () => write(whole(lines, { trailer: { ...trailer.trailer, root_hash: 'abc' } })),
    ],
  ])('is 2: %s', async (_, make) => {
    const { code, stdout, stderr } = await mailguard(['audit', 'verify', await make()]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(/^error: \S/);
  });
});
