import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { mailguard, temporary } from '../cli/support.ts';

const home = temporary();
const GOOD = '00112233445566778899aabbccddeeff'.repeat(2);
/** Nobody listens there: whatever gets past the settings fails in another way. */
const NOWHERE = 'postgres://nobody@127.0.0.1:1/nothing';

let homes = 0;
/** A data directory that holds this text as its master key. */
function homeWith(masterKey: string, mode = 0o600): string {
  homes += 1;
  const path = join(home, String(homes));
  mkdirSync(path);
  writeFileSync(join(path, 'master-key'), masterKey);
  chmodSync(join(path, 'master-key'), mode);
  return path;
}
const serve = (env: NodeJS.ProcessEnv) =>
  mailguard(['serve'], { env: { MAILGUARD_DATABASE_URL: NOWHERE, ...env } });

/** The refusal's lines, one a problem; empty when the start failed otherwise. */
async function problemsOf(env: NodeJS.ProcessEnv): Promise<string[]> {
  const { code, stdout, stderr } = await serve(env);
  if (!stderr.startsWith('The configuration is refused:\n')) return [];
  expect([code, stdout]).toEqual([2, '']);
  return stderr.trim().split('\n').slice(1);
}

describe('serve, with a master-key file', () => {
  it.each<[string, string, string]>([
    ['an empty one', '', 'must hold 32 bytes in hex (64 digits)'],
    ['one with a line end alone', '\n', 'must hold 32 bytes in hex (64 digits)'],
    ['one with too few digits', GOOD.slice(0, 62), 'must hold 32 bytes in hex (64 digits)'],
    ['one with a digit too many', `${GOOD}0`, 'must hold 32 bytes in hex (64 digits)'],
    ['one that is no hex', `${GOOD.slice(0, 63)}g`, 'must hold 32 bytes in hex (64 digits)'],
    ['one with two lines', `${GOOD}\n${GOOD}\n`, 'must hold 32 bytes in hex (64 digits)'],
    ['one of zeros', '0'.repeat(64), 'has too little variety to be random'],
  ])('refuses %s, naming the file', async (_, text, problem) => {
    const dataDir = homeWith(text);
    expect(await problemsOf({ MAILGUARD_DATA_DIR: dataDir })).toEqual([
      `- ${join(dataDir, 'master-key')} ${problem}`,
    ]);
  });

  it('refuses one that others may read, and names all that is wrong with it', async () => {
    const dataDir = homeWith('short', 0o640);
    const file = join(dataDir, 'master-key');
    expect(await problemsOf({ MAILGUARD_DATA_DIR: dataDir })).toEqual([
      `- ${file} must hold 32 bytes in hex (64 digits)`,
      `- ${file} may be read by others: chmod 600`,
    ]);
  });

  it('says nothing of what the file holds', async () => {
    const { stderr } = await serve({ MAILGUARD_DATA_DIR: homeWith(`${GOOD}xyz`) });
    expect(stderr).not.toContain(GOOD.slice(0, 8));
  });

  it('takes a good one, whatever its case and line end, and gets as far as the database', async () => {
    for (const text of [GOOD, `${GOOD.toUpperCase()}\n`]) {
      const { code, stderr } = await serve({ MAILGUARD_DATA_DIR: homeWith(text) });
      expect(code).toBe(1);
      expect(stderr).toContain('ECONNREFUSED');
    }
  });
});

describe('serve, with settings that are wrong in many ways', () => {
  it('names all of them at once, unreadable TLS files among them, and leaves nothing behind', async () => {
    const dataDir = join(home, 'never-made');
    const problems = await problemsOf({
      MAILGUARD_DATA_DIR: dataDir,
      MAILGUARD_DATABASE_URL: 'mysql://x',
      MAILGUARD_PORT: 'x',
      MAILGUARD_TLS_CERT: join(home, 'no-such.pem'),
      MAILGUARD_TLS_KEY: home,
      MAILGUARD_TRUSTED_PROXIES: '0.0.0.0/1, nonsense, 10.0.0.0/8',
      MAILGUARD_MASTER_KEY: 'abc',
      MAILGUARD_BOOTSTRAP_KEY_FILE: join(home, 'no-such-key'),
      MAILGUARD_COLOUR: 'blue',
    });
    expect(problems.toSorted()).toEqual(
      [
        '- MAILGUARD_BOOTSTRAP_KEY_FILE cannot be read',
        '- MAILGUARD_COLOUR is not a setting',
        '- MAILGUARD_DATABASE_URL must begin with postgres://',
        '- MAILGUARD_MASTER_KEY must be 32 bytes in hex (64 digits)',
        '- MAILGUARD_PORT must be a port number',
        '- MAILGUARD_TRUSTED_PROXIES: 0.0.0.0/1 would trust everybody',
        '- MAILGUARD_TRUSTED_PROXIES: nonsense is not an address or CIDR',
        `- ${join(home, 'no-such.pem')} (TLS) cannot be read`,
        `- ${home} (TLS) cannot be read`,
      ].toSorted(),
    );
    expect(existsSync(dataDir)).toBe(false);
  });
});
