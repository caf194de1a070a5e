import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';

const DEPLOY = fileURLToPath(new URL('../../deploy/', import.meta.url));
const GATEWAY = 'mailguard.service';
const HELPER = 'mailguard-postfix@.service';
const UNITS = [GATEWAY, HELPER, 'mailguard-postfix.socket'];

const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0;
if (!hasSystemd) console.warn('the units are not checked: systemd-analyze is missing');

const read = (name: string) => readFileSync(join(DEPLOY, 'systemd', name), 'utf8');

describe('the unit of the gateway', () => {
  it('sets nothing that is not a setting, also in the lines that are there to be taken', () => {
    const lines = [...read(GATEWAY).matchAll(/^(?:# )?Environment=(.*)$/gm)];
    const names = lines.flatMap(([, text = '']) =>
      text.split(' ').map((pair) => pair.split('=')[0] ?? ''),
    );
    const settings = names.filter((name) => name.startsWith('MAILGUARD_'));
    expect(settings).toContain('MAILGUARD_MASTER_KEY_FILE');
    const problems = settings.map((name) => {
      try {
        loadConfig({ [name]: '/nowhere' });
        return '';
      } catch (error) {
        return (error as Error).message;
      }
    });
    expect(problems.join('\n')).not.toContain('is not a setting');
  });

  it('loads each secret under the name by which it is read', () => {
    const loaded = [...read(GATEWAY).matchAll(/^# LoadCredential=([\w-]+):/gm)].map(([, n]) => n);
    const given = [...read(GATEWAY).matchAll(/_FILE=%d\/([\w-]+)$/gm)].map(([, name]) => name);
    expect(loaded).toEqual(given);
    expect(loaded).toHaveLength(4);
  });
});

describe.skipIf(!hasSystemd)('systemd-analyze', () => {
  let dir: string;
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'mailguard-units-'));
    // What is started lies elsewhere on this machine.
    for (const name of UNITS) {
      const text = read(name)
        .replace('/usr/bin/node', process.execPath)
        .replace('/usr/local/libexec/', join(DEPLOY, 'postfix/'));
      writeFileSync(join(dir, name), text);
    }
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  const analyze = (...args: readonly string[]) =>
    spawnSync('systemd-analyze', args, { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });

  it.each(UNITS)('verifies %s without a word', (name) => {
    const { status, stdout, stderr } = analyze('verify', '--man=no', join(dir, name));
    const said = `${stdout}${stderr}`
      .split('\n')
      .filter((line) => line.includes(dir) || line.includes(name));
    expect({ status, said }).toEqual({ status: 0, said: [] });
  });

  // In tenths; by itself a service has 96.
  it.each([
    [GATEWAY, 20],
    [HELPER, 40],
  ])('finds %s exposed by no more than %i', (name, tenths) => {
    const { status, stdout } = analyze(
      ...['security', '--offline=true', `--threshold=${tenths}`, join(dir, name)],
    );
    expect({ status, told: /Overall exposure level/.test(stdout) }).toEqual({
      status: 0,
      told: true,
    });
  });

  it('finds a service without these settings exposed, so the score is one of them', () => {
    const bare = join(dir, 'bare.service');
    writeFileSync(bare, `[Service]\nExecStart=${process.execPath}\n`);
    expect(analyze('security', '--offline=true', '--threshold=40', bare).status).not.toBe(0);
  });
});
