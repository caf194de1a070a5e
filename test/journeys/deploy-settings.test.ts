import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { missingPrograms } from '../support/mail-host.ts';

const DEPLOY = fileURLToPath(new URL('../../deploy/', import.meta.url));
const HELPER = join(DEPLOY, 'postfix/mailguard-postfix');

const missing = missingPrograms();
const hasAll = missing.length === 0;
if (!hasAll) console.warn(`the settings in deploy/ are not tried: ${missing.join(', ')} missing`);
const shells = ['sh', 'dash'].filter((shell) => spawnSync(shell, ['-c', ':']).status === 0);

// What an operator copies must be accepted by the programs that read it, over Debian's own files.
describe.skipIf(!hasAll)('the settings in deploy/', () => {
  let dir: string;
  let postfix: string;
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'mailguard-deploy-'));
    postfix = join(dir, 'postfix');
    for (const folder of ['postfix', 'queue', 'data']) mkdirSync(join(dir, folder));
    run('chown', ['postfix', join(dir, 'data')]);
    const own = [`queue_directory = ${dir}/queue`, `data_directory = ${dir}/data`].join('\n');
    const defaults = readFileSync('/usr/share/postfix/main.cf.debian', 'utf8');
    const fragment = readFileSync(join(DEPLOY, 'postfix/main.cf.mailguard'), 'utf8');
    writeFileSync(join(postfix, 'main.cf'), `${defaults}\n${own}\n${fragment}`);
    cpSync('/etc/postfix/master.cf.proto', join(postfix, 'master.cf'));
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  it('are read by postconf as they are written', () => {
    const { stdout, stderr } = run('postconf', ['-c', postfix, '-n']);
    expect(stderr).toBe('');
    const written = readFileSync(join(DEPLOY, 'postfix/main.cf.mailguard'), 'utf8')
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'));
    expect(stdout.split('\n')).toEqual(expect.arrayContaining(written));
  });

  it('pass postfix check', () => {
    const { status, stderr } = run('postfix', ['-c', postfix, 'check']);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });

  it.each([
    ['X-Spamd-Result: default: False [0.00 / 15.00]', 'IGNORE'],
    ['X-Spam: Yes', 'IGNORE'],
    ['X-Spam-Status: No', 'IGNORE'],
    ['X-Rspamd-Queue-Id: 4jZw8h4Zs8z1TwMx', 'IGNORE'],
    ['Subject: X-Spam-Status: No', ''],
    ['X-Spammer: no', ''],
  ])('answer the header %s with "%s"', (header, answer) => {
    const table = `regexp:${join(DEPLOY, 'postfix/mailguard_header_checks')}`;
    const { stdout, stderr } = run('postmap', ['-c', postfix, '-q', header, table]);
    expect({ answer: stdout.trim(), stderr }).toEqual({ answer, stderr: '' });
  });

  it('pass rspamadm configtest, and give what they say', () => {
    const etc = join(dir, 'rspamd');
    cpSync('/etc/rspamd', etc, { recursive: true });
    cpSync(join(DEPLOY, 'rspamd/local.d'), join(etc, 'local.d'), { recursive: true });
    // Not strict: that counts the names which a machine without a network cannot look up.
    const at = `--var=LOCAL_CONFDIR=${etc}`;
    const test = run('rspamadm', [at, 'configtest']);
    expect(test).toMatchObject({ status: 0, stdout: expect.stringContaining('syntax OK') });
    const { stdout } = run('rspamadm', [at, 'configdump', '-j']);
    const dump = JSON.parse(stdout);
    expect(dump.actions).toMatchObject({ add_header: 6, quarantine: 10, reject: 15 });
    expect(dump.metadata_exporter.rules.MAILGUARD).toMatchObject({
      selector: 'mailguard_held',
      url: 'http://127.0.0.1:3443/api/v1/mail/quarantine',
      user: 'ingest',
    });
  });

  const run = (program: string, args: readonly string[]) => {
    const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin`, LC_ALL: 'C' };
    return spawnSync(program, args, { env, encoding: 'utf8' });
  };
});

describe('the helper that runs as root', () => {
  it.each(shells)('is read by %s without an error', (shell) => {
    expect(spawnSync(shell, ['-n', HELPER], { encoding: 'utf8' })).toMatchObject({
      status: 0,
      stderr: '',
    });
  });

  it.each([
    ['nothing', '', 'mailguard: the request was cut'],
    ['a request without its end', 'held\n', 'mailguard: the request was cut'],
    ['an unknown verb', 'held; id\n.\n', 'mailguard: no such verb'],
    ['lines that a verb does not take', 'list\nABCDEF\n.\n', 'mailguard: this verb takes no lines'],
    ['no message', 'discard\n.\n', 'mailguard: no message given'],
    ['ALL', 'discard\nALL\n.\n', 'mailguard: a line is not of the right form'],
    ['an option', 'deliver\n-d\n.\n', 'mailguard: a line is not of the right form'],
    ['a path', 'message\n../../x\n.\n', 'mailguard: a line is not of the right form'],
    [
      'an id without its file',
      'release\nABCDEF\n.\n',
      'mailguard: a line is not of the right form',
    ],
    [
      'a bad line among good ones',
      'deliver\nABCDEF\n\n.\n',
      'mailguard: a line is not of the right form',
    ],
    [
      'too many lines',
      `deliver\n${'ABCDEF\n'.repeat(1_001)}.\n`,
      'mailguard: more than 1000 lines',
    ],
  ])('refuses %s', (_, input, reason) => {
    const { status, stdout } = spawnSync(HELPER, { input, encoding: 'utf8' });
    expect({ status, stdout }).toEqual({ status: 0, stdout: `${reason}\nend 64\n` });
  });
});
