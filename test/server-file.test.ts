import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readServerFile, removeServerFile, writeServerFile } from '../src/server-file.ts';

describe('what a gateway says of itself in its data directory', () => {
  const dir = mkdtempSync(join(tmpdir(), 'mailguard-server-file-'));
  afterAll(() => rmSync(dir, { recursive: true }));
  const server = { url: 'http://127.0.0.1:4000', pid: process.pid, certificate: null };

  it('is read while its process lives, by its owner alone', async () => {
    await writeServerFile(dir, server);
    expect(readServerFile(dir)).toEqual(server);
    expect(statSync(join(dir, 'server.json')).mode & 0o777).toBe(0o600);
  });

  it('is replaced by the next one, and gone with it', async () => {
    await writeServerFile(dir, { ...server, url: 'http://127.0.0.1:4001' });
    expect(readServerFile(dir)?.url).toBe('http://127.0.0.1:4001');
    await removeServerFile(dir);
    expect(readServerFile(dir)).toBeNull();
  });

  it('is nothing once its process was killed: another may be at its port', async () => {
    const { pid } = spawnSync(process.execPath, ['--version']);
    await writeServerFile(dir, { ...server, pid });
    expect(readServerFile(dir)).toBeNull();
  });

  it.each(['', 'no JSON', '{"url":"http://127.0.0.1:1"}'])('is nothing as %j', (text) => {
    writeFileSync(join(dir, 'server.json'), text);
    expect(readServerFile(dir)).toBeNull();
  });
});
