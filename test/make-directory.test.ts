import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeDirectory } from '../src/make-directory.ts';

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'mailguard-make-'));
});
afterEach(() => rmSync(home, { recursive: true }));

describe('makeDirectory', () => {
  it('makes what is missing, closed as it was asked to be, and gives the first of it', async () => {
    const path = join(home, 'a', 'b', 'c');
    expect(await makeDirectory(path, 0o700)).toBe(join(home, 'a'));
    expect(statSync(path).mode & 0o777).toBe(0o700);
    expect(statSync(join(home, 'a')).mode & 0o777).toBe(0o700);
  });

  it('leaves a directory that is there as it is', async () => {
    const path = join(home, 'there');
    mkdirSync(path, { mode: 0o755 });
    expect(await makeDirectory(path, 0o700)).toBeNull();
    expect(statSync(path).mode & 0o777).toBe(0o755);
  });

  it('is done by several at once', async () => {
    const path = join(home, 'a', 'b');
    await Promise.all(Array.from({ length: 20 }, () => makeDirectory(path, 0o700)));
    expect(statSync(path).isDirectory()).toBe(true);
  });

  it('rejects where a file is, at the end of the path or on the way', async () => {
    const file = join(home, 'file');
    writeFileSync(file, '');
    await expect(makeDirectory(file, 0o700)).rejects.toMatchObject({ code: 'EEXIST' });
    await expect(makeDirectory(join(file, 'b'), 0o700)).rejects.toMatchObject({ code: 'ENOTDIR' });
  });

  it.runIf(existsSync('/proc'))('rejects where a parent takes no directory', async () => {
    await expect(makeDirectory('/proc/a/b', 0o700)).rejects.toMatchObject({ code: 'ENOENT' });
  });
});
