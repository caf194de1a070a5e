import { parseArgs } from 'node:util';
import { closest } from './closest.ts';
import type { Terminal } from './terminal.ts';

/** Status to exit with; contract.md 4 names the last three for `log verify`. */
export const EXIT = { done: 0, failed: 1, unusable: 2, interrupted: 130 } as const;

/** A flag, or an option that takes the value that `value` names; of one given twice the last counts. */
export type Option = Readonly<{
  help: string;
  value?: string;
  required?: true;
  /** Every value counts. */
  repeatable?: true;
}>;

/** One command: its help is printed, and its arguments are read, from this very value. */
export type Command = Readonly<{
  /** As it is typed: `serve`, `keys create`. */
  name: string;
  summary: string;
  /** What a user should know beyond the summary, line by line. */
  description: readonly string[];
  /**
   * Names of what follows the command without dashes; all of it is required. The last one, when its
   * name ends in `…`, may be given any number of times.
   */
  parameters?: readonly string[];
  options: Readonly<Record<string, Option>>;
  /** Names of the settings that it heeds. */
  environment: readonly string[];
  /** What an exit status means where it says more than usual. */
  exits?: Readonly<Record<number, string>>;
  run: (given: Given, terminal: Terminal) => Promise<number>;
}>;

/** What the user gave, checked against the command. */
export type Given = Readonly<{
  parameters: readonly string[];
  text: (option: string) => string | null;
  /** Every value of a repeatable option, in their order. */
  texts: (option: string) => readonly string[];
  has: (flag: string) => boolean;
}>;

/** A failure that its message explains; anything else that is thrown is a bug. */
export class CliError extends Error {
  readonly exitCode: number;

  constructor(message: string, exitCode: number = EXIT.failed) {
    super(message);
    this.name = 'CliError';
    this.exitCode = exitCode;
  }
}

export const usageError = (message: string, command: string): CliError =>
  new CliError(`${message}; see mailguard${command === '' ? '' : ` ${command}`} --help`, 2);

/** What keeps a command from being begun: a setting, or what it is to work on. */
export const unusable = (message: string): CliError => new CliError(message, EXIT.unusable);

/** What an error says, in words. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code } = error as NodeJS.ErrnoException;
  // Where a name has several addresses, the error of all of them together has no message.
  return error.message === '' ? (code ?? error.name) : error.message;
}

/** Options that most commands share. */
export const JSON_OPTION = { json: { help: 'Print JSON instead of a table.' } } as const;

/** Reads what follows a command's name. Null when help is asked for. Throws a usage error. */
export function parseGiven(command: Command, argv: readonly string[]): Given | null {
  const { name, options, parameters = [] } = command;
  const types = Object.entries({ ...options, help: { help: '' } }).map(
    ([option, { value }]: [string, Option]) =>
      [option, { type: value === undefined ? 'boolean' : 'string' }] as const,
  );
  const { tokens } = parseArgs({
    args: argv.map((argument) => (argument === '-h' ? '--help' : argument)),
    options: Object.fromEntries(types),
    strict: false,
    tokens: true,
  });
  const named = tokens.filter((token) => token.kind === 'option');
  if (named.some((token) => token.name === 'help')) return null;
  const texts = new Map<string, string[]>();
  const flags = new Set<string>();
  for (const token of named) {
    const option = Object.hasOwn(options, token.name) ? options[token.name] : undefined;
    if (option === undefined) throw unknownOption(command, token.rawName);
    if (option.value === undefined) {
      if (token.value !== undefined) throw usageError(`--${token.name} takes no value`, name);
      flags.add(token.name);
      continue;
    }
    const value = takeValue(command, option, token);
    texts.set(token.name, [...(texts.get(token.name) ?? []), value]);
  }
  const missing = Object.keys(options).find((o) => options[o]?.required && !texts.has(o));
  if (missing !== undefined) throw usageError(`--${missing} is missing`, name);
  const given = tokens.filter((token) => token.kind === 'positional').map(({ value }) => value);
  const absent = parameters[given.length];
  if (absent !== undefined) throw usageError(`${absent} is missing`, name);
  const isOpen = parameters.at(-1)?.endsWith('…') === true;
  const extra = isOpen ? undefined : given[parameters.length];
  if (extra !== undefined) throw usageError(`"${extra}" is too much`, name);
  return {
    parameters: given,
    text: (option) => texts.get(option)?.at(-1) ?? null,
    texts: (option) => texts.get(option) ?? [],
    has: (flag) => flags.has(flag),
  };
}

function takeValue(
  { name }: Command,
  { value: noun }: Option,
  token: Readonly<{ name: string; value?: string | undefined; inlineValue?: boolean | undefined }>,
): string {
  const { value, inlineValue } = token;
  if (value === undefined || value === '' || (value.startsWith('--') && inlineValue !== true)) {
    throw usageError(`--${token.name} needs a value (--${token.name}=${noun ?? ''})`, name);
  }
  return value;
}

function unknownOption({ name, options }: Command, given: string): CliError {
  const known = Object.keys(options).map((option) => `--${option}`);
  const near = closest(given, [...known, '--help']);
  const hint = near === null ? '' : ` (did you mean ${near}?)`;
  return usageError(`unknown option ${given}${hint}`, name);
}
