import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  databaseAccount,
  ensureSecret,
  type Files,
  findClosedDirectory,
  makeDataDir,
  resolveDataDir,
} from '../src/data-dir.ts';

const nobody = { uid: 65_534, gid: 65_534 };
const alice = { uid: 1_000, gid: 1_000 };
const root = { uid: 0, gid: 0 };

type Entry = { uid: number; gid: number; mode: number };

/** A file system of directories: what is not named does not exist. */
function files(entries: Record<string, Entry>, more: Partial<Files> = {}): Files {
  return {
    stat: (path) => entries[path] ?? null,
    realpath: (path) => path,
    accounts: () => 'root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n',
    ...more,
  };
}

const open = { ...root, mode: 0o40755 };
const closed = { ...root, mode: 0o40700 };
const openTree = files({ '/': open, '/srv': open, '/srv/gateway': open });
const homeTree = { '/': open, '/closed': closed, '/closed/gateway': open };
const relocated = /^\/var\/lib\/mailguard\/[0-9a-f]{12}$/;

describe('resolveDataDir', () => {
  const ofRoot = { explicit: null, projectRoot: '/closed/gateway', uid: 0 };

  it('is ./data for a plain user, wherever that is', () => {
    expect(resolveDataDir({ ...ofRoot, uid: 1_000 }, files(homeTree))).toEqual({
      path: '/closed/gateway/data',
      relocated: false,
    });
  });

  it('is ./data for root where nobody can reach it', () => {
    const found = resolveDataDir({ ...ofRoot, projectRoot: '/srv/gateway' }, openTree);
    expect(found).toEqual({ path: '/srv/gateway/data', relocated: false });
  });

  it('is a directory of its own under /var/lib/mailguard where nobody cannot', () => {
    const found = resolveDataDir(ofRoot, files(homeTree));
    expect(found).toEqual({ path: expect.stringMatching(relocated), relocated: true });
    expect(resolveDataDir(ofRoot, files(homeTree))).toEqual(found);
    const other = { ...ofRoot, projectRoot: '/closed/second' };
    expect(resolveDataDir(other, files(homeTree)).path).not.toBe(found.path);
  });

  it('reads an explicit directory from the project root', () => {
    const explicit = { explicit: 'state', projectRoot: '/srv/gateway', uid: 0 };
    expect(resolveDataDir(explicit, openTree).path).toBe('/srv/gateway/state');
    expect(resolveDataDir({ ...explicit, explicit: '/srv/x' }, openTree).path).toBe('/srv/x');
  });

  it('refuses an explicit directory out of reach, with variable, directory and obstacle', () => {
    expect(() => resolveDataDir({ ...ofRoot, explicit: 'state' }, files(homeTree))).toThrow(
      /MAILGUARD_DATA_DIR names \/closed\/gateway\/state, .*: \/closed is closed/,
    );
  });

  it('keeps to the place that holds the database when a parent is opened later', () => {
    const { path } = resolveDataDir(ofRoot, files(homeTree));
    const opened = {
      ...homeTree,
      '/closed': open,
      [`${path}/postgres`]: { ...nobody, mode: 0o700 },
    };
    expect(resolveDataDir(ofRoot, files(opened))).toEqual({ path, relocated: true });
  });

  it('refuses to start over with an empty database when a parent is closed later', () => {
    const shut = { ...homeTree, '/closed/gateway/data/postgres': { ...nobody, mode: 0o700 } };
    expect(() => resolveDataDir(ofRoot, files(shut))).toThrow(/holds a database .*: \/closed is/);
  });

  it('goes by the owner of a database that a plain user began', () => {
    const home = {
      '/': open,
      '/home/alice': { ...alice, mode: 0o40700 },
      '/home/alice/data/postgres': { ...alice, mode: 0o40700 },
    };
    const found = resolveDataDir({ ...ofRoot, projectRoot: '/home/alice' }, files(home));
    expect(found).toEqual({ path: '/home/alice/data', relocated: false });
  });
});

describe('findClosedDirectory', () => {
  it('names the first directory on the way', () => {
    const tree = files({ '/': open, '/a': closed, '/a/b': closed });
    expect(findClosedDirectory('/a/b/c', nobody, tree)).toBe('/a');
  });

  it('lets the class that matches first decide', () => {
    const ownersOnly = files({ '/a': { ...nobody, mode: 0o40677 } });
    expect(findClosedDirectory('/a/b', nobody, ownersOnly)).toBe('/a');
    const groups = files({ '/a': { uid: 0, gid: nobody.gid, mode: 0o40710 } });
    expect(findClosedDirectory('/a/b', nobody, groups)).toBeNull();
  });

  it('follows a link to where it leads', () => {
    const tree = { '/srv': open, '/srv/data': open, '/closed': closed, '/closed/data': open };
    const linked = files(tree, { realpath: (path) => path.replace('/srv/data', '/closed/data') });
    expect(findClosedDirectory('/srv/data/postgres', nobody, linked)).toBe('/closed');
  });
});

describe('databaseAccount', () => {
  it('is nobody as the machine numbers it', () => {
    const accounts = () => 'root:x:0:0:::\nnobody:x:99:98:::\n';
    expect(databaseAccount('/data', files({}, { accounts }))).toEqual({ uid: 99, gid: 98 });
  });

  it.each([
    [
      'without /etc/passwd',
      () => {
        throw new Error('ENOENT');
      },
    ],
    ['where nobody has a negative number', () => 'nobody:*:-2:-2:::\n'],
    ['where nobody is said to be root', () => 'nobody:x:0:0:::\n'],
  ])('is 65534 %s', (_case, accounts) => {
    expect(databaseAccount('/data', files({}, { accounts }))).toEqual(nobody);
  });
});

describe('on disk', () => {
  let home = '';
  beforeEach(async () => {
    home = await mkdtemp(join(tmpdir(), 'mailguard-data-'));
  });
  afterEach(() => rm(home, { recursive: true, force: true }));

  it('makes a private data directory, parents and all', async () => {
    const dataDir = join(home, 'a', 'data');
    await makeDataDir(dataDir, null);
    await makeDataDir(dataDir, null);
    expect((await stat(dataDir)).mode & 0o777).toBe(0o700);
  });

  it('refuses a directory that the account of the database cannot reach', async () => {
    // mkdtemp makes 0700.
    await expect(makeDataDir(join(home, 'data'), nobody)).rejects.toThrow(`${home} is closed`);
  });

  it('makes a secret once, for nobody else to read', async () => {
    const path = join(home, 'secret');
    const secrets = await Promise.all([1, 2, 3, 4].map(() => ensureSecret(path)));
    expect(new Set(secrets).size).toBe(1);
    expect(secrets[0]).toMatch(/^[0-9a-f]{64}$/);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(await readFile(path, 'utf8')).toBe(`${secrets[0]}\n`);
  });
});
