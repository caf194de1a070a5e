import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { watchFreeSpace } from '../src/free-space.ts';
import { startTestGateway } from './support/gateway.ts';

const dir = mkdtempSync(join(tmpdir(), 'mailguard-space-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('room on the disk of the data directory', () => {
  it('is told of in MiB once there is less than asked for, and not before', async () => {
    const short = await watchFreeSpace(dir, Number.MAX_SAFE_INTEGER);
    expect(short.warnings()).toEqual([
      expect.stringMatching(/^the disk of the data directory is nearly full: \d+ MiB are left$/),
    ]);
    expect((await watchFreeSpace(dir, 0)).warnings()).toEqual([]);
  });

  it('fails its look, which is logged, where the directory is gone', async () => {
    const gone = mkdtempSync(join(tmpdir(), 'mailguard-space-'));
    const { look } = await watchFreeSpace(gone, 0);
    rmSync(gone, { recursive: true });
    await expect(look()).rejects.toThrow('ENOENT');
  });

  it('is warned of by /readyz, which stays 200', async () => {
    const t = await startTestGateway({ freeBytesMin: Number.MAX_SAFE_INTEGER });
    const { status, body } = await t.send('GET', '//readyz');
    expect([status, body.data.warnings]).toEqual([200, [expect.stringContaining('nearly full')]]);
    await t.close();
  });
});
