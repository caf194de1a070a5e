import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const SRC = fileURLToPath(new URL('../src', import.meta.url));
const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => ({ file, text: readFileSync(join(SRC, file), 'utf8') }));

/** What each folder may import beside itself; a file at the root of src counts as its own folder. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  domain: [],
  integrity: ['domain'],
  eventlog: ['domain', 'integrity', 'clock.ts'],
  db: ['clock.ts', 'config-error.ts', 'data-dir.ts'],
  projections: [
    'domain',
    'eventlog',
    'integrity',
    'db',
    'cidr-text.ts',
    'clock.ts',
    'secret-text.ts',
    'secrets.ts',
  ],
  mail: ['domain'],
  api: [
    'domain',
    'eventlog',
    'projections',
    'db',
    'cidr-text.ts',
    'mail',
    'clock.ts',
    'config.ts',
    'data-dir.ts',
    'secret-text.ts',
    'secrets.ts',
  ],
  webhooks: [
    'domain',
    'eventlog',
    'projections',
    'db',
    'clock.ts',
    'outage.ts',
    'secret-text.ts',
    'secrets.ts',
    'waker.ts',
  ],
  integrations: [
    'domain',
    'eventlog',
    'projections',
    'db',
    'mail',
    'clock.ts',
    'config-error.ts',
    'outage.ts',
    'secrets.ts',
    'waker.ts',
  ],
  scheduler: ['db'],
  cli: ['*'],
  'main.ts': ['*'],
  'cli.ts': ['cli'],
  'cidr-text.ts': ['domain'],
  'config.ts': ['secret-files.ts', 'config-error.ts', 'config-values.ts'],
  'config-error.ts': [],
  'config-values.ts': [],
  'clock.ts': [],
  'data-dir.ts': ['config-error.ts', 'make-directory.ts'],
  'free-space.ts': [],
  'logger.ts': [],
  'make-directory.ts': [],
  'open-log.ts': ['config.ts', 'db', 'eventlog', 'projections'],
  'outage.ts': [],
  'secret-files.ts': [],
  'secret-text.ts': [],
  'secrets.ts': [],
  'server-file.ts': [],
  'stop-all.ts': [],
  'waker.ts': [],
};

const roomOf = (file: string) => file.split('/')[0] ?? '';
const IMPORTS =
  /^(?:import|export)[^;]*?from '([^']+)';|^import '([^']+)';|\bimport\(\s*'([^']+)'/gms;
/** Everything that a file imports, also while it runs. */
const importsOf = (text: string) =>
  [...text.matchAll(IMPORTS)].map(([, from, bare, dynamic]) => from ?? bare ?? dynamic ?? '');
const importersOf = (target: string) =>
  files
    .filter(({ file, text }) =>
      importsOf(text).some((name) => join(dirname(file), name) === target),
    )
    .map(({ file }) => file);

/** Every import that the allow-list does not have, as `file -> imported`. */
function offences(sources: readonly { file: string; text: string }[]): string[] {
  return sources.flatMap(({ file, text }) =>
    importsOf(text).flatMap((name) => {
      const room = roomOf(file);
      if (!name.startsWith('.')) return room === 'domain' ? [`${file} -> ${name}`] : [];
      const target = relative(SRC, resolve(SRC, dirname(file), name));
      const allowed = MAY_IMPORT[room] ?? [];
      const isAllowed =
        roomOf(target) === room || allowed.includes('*') || allowed.includes(roomOf(target));
      return isAllowed ? [] : [`${file} -> ${target}`];
    }),
  );
}

describe('the house', () => {
  it('has imports that run one way', () => expect(offences(files)).toEqual([]));

  it('would notice an import that runs the other way', () => {
    const planted = { file: 'domain/x.ts', text: "import { a } from '../eventlog/eventlog.ts';\n" };
    expect(offences([planted])).toEqual(['domain/x.ts -> eventlog/eventlog.ts']);
    const node = { file: 'domain/x.ts', text: "import { b } from 'node:fs';\n" };
    expect(offences([node])).toHaveLength(1);
  });

  it.each([
    ['at run time', "  const { a } = await import('../eventlog/eventlog.ts');"],
    ['over two lines', "  const { a } = await import(\n    '../eventlog/eventlog.ts'\n  );"],
    ['for a type', "type A = import('../eventlog/eventlog.ts').A;"],
    ['again, to pass it on', "export { a } from '../eventlog/eventlog.ts';"],
  ])('would notice one that is made %s', (_, text) => {
    expect(offences([{ file: 'domain/x.ts', text }])).toEqual([
      'domain/x.ts -> eventlog/eventlog.ts',
    ]);
  });

  it('computes the name of an import for the installed PostgreSQL alone', () => {
    const computing = files.filter(({ text }) => /\bimport\(\s*[^'\s]/.test(text));
    expect(computing.map(({ file }) => file)).toEqual(['db/embedded-binaries.ts']);
  });

  it('knows every room', () => {
    expect([...new Set(files.map(({ file }) => roomOf(file)))].sort()).toEqual(
      Object.keys(MAY_IMPORT).sort(),
    );
  });

  it('is entered by main.ts alone: nothing but the command line imports it', () => {
    expect(importersOf('main.ts')).toEqual(['cli/serve.ts']);
  });

  it('chooses an adapter of the log in eventlog/open.ts alone', () => {
    expect(importersOf('eventlog/postgres.ts')).toEqual(['eventlog/open.ts']);
  });

  it('reads the environment in config.ts alone', () => {
    const readers = files.filter(({ text }) => text.includes('process.env'));
    expect(readers.map(({ file }) => file)).toEqual(['config.ts']);
  });

  it('has no SQL in the API', () => {
    const sql = /`\s*(select|insert|update|delete)\s|'(select|insert into|update|delete from) /i;
    const found = files.filter(({ file, text }) => file.startsWith('api/') && sql.test(text));
    expect(found.map(({ file }) => file)).toEqual([]);
  });

  it('has files of at most 300 lines and nothing left to do', () => {
    const long = files.filter(({ text }) => text.split('\n').length > 301);
    expect(long.map(({ file }) => file)).toEqual([]);
    const undone = files.filter(({ text }) => /\b(TODO|FIXME|XXX)\b/.test(text));
    expect(undone.map(({ file }) => file)).toEqual([]);
  });

  it('nests nothing deeper than src/api/routes/x.ts', () => {
    expect(files.filter(({ file }) => file.split('/').length > 3)).toEqual([]);
  });
});
