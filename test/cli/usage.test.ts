import { describe, expect, it } from 'vitest';
import { closest } from '../../src/cli/closest.ts';
import { startProgress } from '../../src/cli/progress.ts';
import { COMMANDS } from '../../src/cli/run.ts';
import { table } from '../../src/cli/table.ts';
import { mailguard } from './support.ts';

describe('mailguard', () => {
  it('tells its version', async () => {
    const { code, stdout } = await mailguard(['--version']);
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'mailguard 0.1.0\n' });
  });

  it.each([['--help'], ['-h'], ['help']])('lists every command on %s', async (word) => {
    const { code, stdout } = await mailguard([word]);
    expect(code).toBe(0);
    for (const { name } of COMMANDS) expect(stdout).toContain(`  ${name} `);
  });

  it('lists the commands of a group', async () => {
    const { code, stdout } = await mailguard(['keys', '--help']);
    expect(code).toBe(0);
    expect(stdout).toContain('keys create');
    expect(stdout).not.toContain('log verify');
  });

  it.each(COMMANDS.map((command) => [command.name, command] as const))(
    'has help of %s with its options, settings and exit statuses',
    async (name, command) => {
      const { code, stdout } = await mailguard([...name.split(' '), '--help']);
      expect(code).toBe(0);
      expect(stdout).toContain(`Usage: mailguard ${name}`);
      for (const option of Object.keys(command.options)) expect(stdout).toContain(`--${option}`);
      for (const variable of command.environment) {
        expect(stdout).toMatch(new RegExp(`  ${variable} +\\S`));
      }
      expect(stdout).toMatch(/Exit status:\n {2}0 /);
    },
  );

  it.each([
    [['sreve'], 'unknown command sreve (did you mean serve?)'],
    [['keys', 'crate'], 'unknown command keys crate (did you mean keys create?)'],
    [['frobnicate'], 'unknown command frobnicate; see mailguard --help'],
    [['--verison'], 'unknown option --verison (did you mean --version?)'],
    [['keys', 'list', '--jsno'], 'unknown option --jsno (did you mean --json?)'],
    [['keys', 'list', '-x'], 'unknown option -x'],
    [['keys', 'list', 'more'], '"more" is too much; see mailguard keys list --help'],
    [['keys', 'list', '--json=yes'], '--json takes no value'],
    [['keys', 'list', '--constructor'], 'unknown option --constructor'],
    [['keys', 'create', '--name', 'x'], '--scope is missing'],
    [['keys', 'create', '--name', '--scope', 'x'], '--name needs a value'],
    [['keys', 'create', '--name=', '--scope', 'x'], '--name needs a value'],
    [['keys', 'create', '--name', 'x', '--scope', 'y', '--rate-limit', 'z'], 'a whole number'],
    [['keys', 'revoke'], 'ID is missing'],
    [['keys', 'revoke', '0x1'], '"0x1" is not the id of a key'],
    [['audit', 'export', '--out', 'x', '--form', 'pretty'], '--form is evidence or readable'],
    [['audit', 'export'], '--out is missing'],
    [['audit', 'tail', '--limit', '10001'], '--limit takes 0 to 10000'],
  ])('refuses %j with exit status 2 and a hint', async (argv, hint) => {
    const { code, stdout, stderr } = await mailguard(argv);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(`error: `);
    expect(stderr).toContain(hint);
  });

  it.each([[[]], [['keys']]])('shows help on standard error for %j', async (argv) => {
    const { code, stdout, stderr } = await mailguard(argv);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain('Usage: mailguard');
  });

  it('names every setting that is refused', async () => {
    const env = { MAILGUARD_PORT: 'x', MAILGUARD_COLOUR: 'blue' };
    const { code, stderr } = await mailguard(['keys', 'list'], { env });
    expect(code).toBe(2);
    expect(stderr).toMatch(/MAILGUARD_COLOUR[\s\S]*MAILGUARD_PORT/);
  });
});

describe('what is printed', () => {
  it('is a table whose columns line up, and steers no terminal', () => {
    const rows = [
      ['1', 'a\u001b[2Jb\nc'],
      ['1000', 'd\u202ee'],
    ];
    expect(table(['id', 'name'], rows)).toBe(
      'ID    NAME\n1     a\ufffd[2Jb\ufffdc\n1000  d\ufffde\n',
    );
  });

  it('guesses a word from a slip, and not from another word', () => {
    expect(closest('--limt', ['--limit', '--json'])).toBe('--limit');
    expect(closest('--colour', ['--limit', '--json'])).toBeNull();
  });
});

describe('a progress bar', () => {
  const draw = (isTTY: boolean, ticks: readonly number[]) => {
    let drawn = '';
    let now = 0;
    const write = (chunk: string | Uint8Array) => {
      drawn += String(chunk);
      return true;
    };
    const progress = startProgress({ stderr: { isTTY, write } }, 'Working', () => now);
    for (const at of ticks) {
      now = at;
      progress.update(at, 10_000);
    }
    progress.end();
    return drawn;
  };

  it('is drawn for work of more than a second, and wiped away', () => {
    expect(draw(true, [500, 5_000])).toBe(
      '\r\u001b[KWorking  [############............]  50% 5,000  1,000/s\r\u001b[K',
    );
  });
  it('is not drawn for work that is over sooner', () => expect(draw(true, [500, 900])).toBe(''));
  it('is not drawn where nobody watches', () => expect(draw(false, [500, 5_000])).toBe(''));
});
