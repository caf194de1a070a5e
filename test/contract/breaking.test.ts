import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { contractChanges, mayBreak } from './breaking.ts';
import { ADDITIONS, MUTATIONS } from './mutations.ts';
import type { Document } from './narrowed.ts';

const pathTo = (name: string) => fileURLToPath(new URL(name, import.meta.url));
/** The contract of the last release: a copy, since a fresh clone may have neither history nor tags. */
const RELEASED = pathTo('released.yaml');
const CURRENT = pathTo('../../openapi.yaml');
const released: Document = parse(readFileSync(RELEASED, 'utf8'));
const current: Document = parse(readFileSync(CURRENT, 'utf8'));

const folder = mkdtempSync(join(tmpdir(), 'mailguard-contract-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The exit code of `redocly diff`: 1 for a change that it rates as major. A new value is a notice for us. */
function redoclyDiff(base: string, revision: string): number | null {
  const cli = pathTo('../../node_modules/@redocly/cli/bin/cli.js');
  const env = { ...process.env, REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true', REDOCLY_TELEMETRY: 'off' };
  const skipped = ['--skip-rule', 'enum-values-added'];
  const args = [cli, 'diff', base, revision, '--fail-on', 'major', ...skipped];
  return spawnSync(process.execPath, args, { env, stdio: 'ignore' }).status;
}

/** The released document after a change was made to it. */
function changed(change: (document: any) => void): Document {
  const document = structuredClone(released);
  change(document);
  return document;
}

/** The same as a file, for those who read files. */
function changedFile(change: (document: any) => void): string {
  const file = join(folder, 'changed.yaml');
  writeFileSync(file, stringify(changed(change), { aliasDuplicateObjects: false }));
  return file;
}

const breakingOf = (a: Document, b: Document): string[] =>
  contractChanges(a, b)
    .filter(({ level }) => level === 'breaking')
    .map(({ at, what }) => `${at}: ${what}`);
const noticesOf = (a: Document, b: Document): string[] =>
  contractChanges(a, b)
    .filter(({ level }) => level === 'notice')
    .map(({ at, what }) => `${at}: ${what}`);

describe('openapi.yaml, against the last release', () => {
  const isNewMajor = mayBreak(released['info'].version, current['info'].version);

  it('breaks nothing, unless its version says so', async ({ annotate }) => {
    for (const told of noticesOf(released, current)) await annotate(told, 'notice');
    if (!isNewMajor) expect(breakingOf(released, current)).toEqual([]);
  });

  it('breaks nothing for redocly diff either', () => {
    if (!isNewMajor) expect(redoclyDiff(RELEASED, CURRENT)).toBe(0);
  });

  it('is not older than the last release', () => {
    const order = [released['info'].version, current['info'].version];
    const byNumber = new Intl.Collator('en', { numeric: true });
    expect(order.toSorted(byNumber.compare)).toEqual(order);
  });
});

describe('a version that may break', () => {
  it.each([
    ['0.1.0', '0.1.0', false],
    ['0.1.0', '0.1.9', false],
    ['0.1.9', '0.2.0', true],
    ['0.9.0', '0.10.0', true],
    ['0.9.0', '1.0.0', true],
    ['1.2.0', '1.3.0', false],
    ['1.9.0', '2.0.0', true],
    ['2.0.0', '1.9.0', false],
    ['1.0.0', '0.9.0', false],
  ])('after %s, %s: %s', (before, now, expected) => expect(mayBreak(before, now)).toBe(expected));
});

describe('the gate finds', () => {
  it.each(MUTATIONS)('%s', (_, change, told) => {
    const found = breakingOf(released, changed(change));
    expect(found.filter((line) => told.test(line))).not.toEqual([]);
  });

  const SEEN_BY_BOTH = [
    'a path of another name',
    'a member of a body that became required',
    'a member that may be absent now',
    'a member of a payload that is gone',
    'a credential asked for where none was',
  ];
  it.each(MUTATIONS.filter(([name]) => SEEN_BY_BOTH.includes(name)))(
    '%s, and so does redocly diff',
    (_, change) => expect(redoclyDiff(RELEASED, changedFile(change))).toBe(1),
  );
});

describe('the gate lets through', () => {
  it.each(ADDITIONS)('%s', (_, change, notices) => {
    const document = changed(change);
    expect(breakingOf(released, document)).toEqual([]);
    const told = noticesOf(released, document);
    if (notices.length === 0) expect(told).toEqual([]);
    for (const notice of notices) expect(told).toContainEqual(expect.stringMatching(notice));
  });

  it('a member and a value of an answer, and so does redocly diff', () => {
    const add = (d: any) => {
      d.components.schemas.MailDomain.properties.note = { type: 'string' };
      d.components.schemas.MailDomain.properties.direction.enum.push('both');
    };
    expect(redoclyDiff(RELEASED, changedFile(add))).toBe(0);
  });
});
