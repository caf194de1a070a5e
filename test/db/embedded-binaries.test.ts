import { chmod, lstat, mkdir, readdir, readlink, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { prepareBinaries } from '../../src/db/embedded-binaries.ts';
import { isRoot, makeTemporary, removeTemporary } from './embedded-support.ts';

afterEach(removeTemporary);

describe('prepareBinaries', () => {
  const version = '18.4.0';
  const links = [{ source: 'native/lib/libx.so.1.2', target: 'native/lib/libx.so.1' }];

  /** A package as npm unpacks it when install scripts are not allowed. */
  async function makePackage() {
    const root = join(await makeTemporary(), 'package');
    const native = join(root, 'native');
    for (const name of ['bin', 'lib', 'share'])
      await mkdir(join(native, name), { recursive: true });
    await writeFile(join(native, 'bin', 'postgres'), 'program', { mode: 0o755 });
    await writeFile(join(native, 'lib', 'libx.so.1.2'), 'library');
    await writeFile(join(native, 'pg-symlinks.json'), JSON.stringify(links));
    const [initdb, postgres] = ['initdb', 'postgres'].map((name) => join(native, 'bin', name));
    return { root, version, initdb: initdb!, postgres: postgres! };
  }

  it('makes the missing links where the package lies', async () => {
    const found = await makePackage();
    const binaries = await prepareBinaries(found, null, '/nowhere');
    expect(binaries).toEqual({ initdb: found.initdb, postgres: found.postgres, major: '18' });
    expect(await readlink(join(found.root, 'native', 'lib', 'libx.so.1'))).toBe('libx.so.1.2');
    // A second time there is nothing to do.
    await prepareBinaries(found, null, '/nowhere');
  });

  it('copies a package that is closed to the account, once, and opens the copy', async () => {
    const found = await makePackage();
    await chmod(join(found.root, 'native', 'bin'), 0o700);
    await chmod(join(found.root, 'native', 'lib', 'libx.so.1.2'), 0o600);
    const copyRoot = join(await makeTemporary(), 'shared');
    const account = { uid: 65_533, gid: 65_533 };
    const [one, two] = await Promise.all([
      prepareBinaries(found, account, copyRoot),
      prepareBinaries(found, account, copyRoot),
    ]);
    const copy = join(copyRoot, `postgresql-${version}`);
    expect(one).toEqual(two);
    expect(one.postgres).toBe(join(copy, 'native', 'bin', 'postgres'));
    expect((await stat(one.postgres)).mode & 0o777).toBe(0o755);
    expect((await stat(join(copy, 'native', 'lib', 'libx.so.1'))).mode & 0o777).toBe(0o644);
    expect(await readdir(copyRoot)).toEqual([`postgresql-${version}`]);
    await expect(lstat(join(found.root, 'native', 'lib', 'libx.so.1'))).rejects.toThrow('ENOENT');
  });

  it('copies a package that lacks links and may not be written', async (context) => {
    if (isRoot) context.skip('root may write everywhere');
    const found = await makePackage();
    const lib = join(found.root, 'native', 'lib');
    await chmod(lib, 0o555);
    const copyRoot = join(await makeTemporary(), 'shared');
    const binaries = await prepareBinaries(found, null, copyRoot);
    await chmod(lib, 0o755);
    expect(binaries.postgres.startsWith(copyRoot)).toBe(true);
  });

  it('keeps links that are there', async () => {
    const found = await makePackage();
    const link = join(found.root, 'native', 'lib', 'libx.so.1');
    await symlink('elsewhere', link);
    await prepareBinaries(found, null, '/nowhere');
    expect(await readlink(link)).toBe('elsewhere');
  });
});
