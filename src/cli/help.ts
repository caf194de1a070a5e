import type { Command, Option } from './command.ts';
import { SETTINGS } from './settings.ts';

const EXITS: Readonly<Record<number, string>> = {
  0: 'done',
  1: 'failed; standard error says why',
  2: 'wrongly used, settings that are refused, or nobody there to ask',
  130: 'interrupted',
};

/** Help of the whole program, or of the commands that begin with a word. */
export function helpOfProgram(commands: readonly Command[], group = ''): string {
  const listed = commands.filter(({ name }) => group === '' || name.startsWith(`${group} `));
  return [
    `Usage: mailguard ${group === '' ? '' : `${group} `}<command> [options]`,
    '',
    ...columns(listed.map(({ name, summary }) => [name, summary])),
    '',
    ...columns([
      ['--help', 'Help of the program, or of the command it stands behind.'],
      ['--version', 'The version of this program.'],
    ]),
    '',
  ].join('\n');
}

/** Help of one command: what it does, what it takes, what it heeds, how it exits. */
export function helpOfCommand(command: Command): string {
  const { name, summary, description, parameters = [], options, environment, exits } = command;
  const entries = Object.entries(options);
  const required = entries.filter(([, { required }]) => required === true);
  const usage = [
    'Usage: mailguard',
    name,
    ...parameters,
    ...required.map(([option, spec]) => nameOf(option, spec)),
    '[options]',
  ];
  return [
    usage.join(' '),
    '',
    summary,
    ...(description.length === 0 ? [] : ['', ...description]),
    '',
    'Options:',
    ...columns([
      ...entries.map(([option, spec]) => [nameOf(option, spec), spec.help] as const),
      ['--help', 'Print this.'],
    ]),
    ...(environment.length === 0 ? [] : ['', 'Environment:']),
    ...columns(environment.map((variable) => [variable, SETTINGS[variable] ?? ''])),
    '',
    'Exit status:',
    ...columns(Object.entries({ ...EXITS, ...exits })),
    '',
  ].join('\n');
}

const nameOf = (option: string, { value }: Option): string =>
  value === undefined ? `--${option}` : `--${option} ${value}`;

function columns(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(0, ...rows.map(([left]) => left.length));
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`.trimEnd());
}
