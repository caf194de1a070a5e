import { ConfigError } from '../config-error.ts';
import { DomainError } from '../domain/errors.ts';
import { scrub } from '../logger.ts';
import { auditExport } from './audit-export.ts';
import { auditTail } from './audit-tail.ts';
import { auditVerify } from './audit-verify.ts';
import { backup } from './backup.ts';
import { closest } from './closest.ts';
import { CliError, type Command, EXIT, messageOf, parseGiven, usageError } from './command.ts';
import { issuesIn } from './connection.ts';
import { demo } from './demo.ts';
import { helpOfCommand, helpOfProgram } from './help.ts';
import { keysCreate, keysList, keysRevoke } from './keys.ts';
import { logVerify } from './log-verify.ts';
import { openapiPrint } from './openapi.ts';
import {
  projectionsClean,
  projectionsList,
  projectionsRebuild,
  projectionsRollback,
} from './projections.ts';
import { quarantineImport } from './quarantine-import.ts';
import { replay } from './replay.ts';
import { restore } from './restore.ts';
import { serve } from './serve.ts';
import { clean, isBrokenPipe, print, say, type Terminal } from './terminal.ts';
import { productVersion } from './version.ts';

/** Every command. What is heavy each of them loads when it runs, so that `--help` is quick. */
export const COMMANDS: readonly Command[] = [
  serve,
  keysCreate,
  keysList,
  keysRevoke,
  auditExport,
  auditTail,
  auditVerify,
  quarantineImport,
  logVerify,
  projectionsList,
  projectionsRebuild,
  projectionsRollback,
  projectionsClean,
  replay,
  backup,
  restore,
  openapiPrint,
  demo,
];

/** Runs one command line, without the program's own name; resolves to the exit status. */
export async function run(argv: readonly string[], terminal: Terminal): Promise<number> {
  try {
    return await dispatch(argv, terminal);
  } catch (error) {
    // Whoever read our output has seen enough; there is nobody left to tell.
    if (isBrokenPipe(error)) return EXIT.failed;
    if (terminal.signal.aborted) return EXIT.interrupted;
    const { text, exitCode } = explain(error);
    await say(terminal, scrub(text));
    return exitCode;
  }
}

async function dispatch(argv: readonly string[], terminal: Terminal): Promise<number> {
  const [first, second] = argv;
  if (first === undefined) {
    await say(terminal, helpOfProgram(COMMANDS));
    return EXIT.unusable;
  }
  if (isHelp(first)) return show(terminal, helpOfProgram(COMMANDS));
  if (first === '--version') return show(terminal, `mailguard ${productVersion()}\n`);
  const single = COMMANDS.find(({ name }) => name === first);
  if (single !== undefined) return runCommand(single, argv.slice(1), terminal);
  const isGroup = COMMANDS.some(({ name }) => name.startsWith(`${first} `));
  if (!isGroup) throw unknown(first, '');
  if (second !== undefined && isHelp(second)) return show(terminal, helpOfProgram(COMMANDS, first));
  if (second === undefined) {
    await say(terminal, helpOfProgram(COMMANDS, first));
    return EXIT.unusable;
  }
  const command = COMMANDS.find(({ name }) => name === `${first} ${second}`);
  if (command === undefined) throw unknown(second, first);
  return runCommand(command, argv.slice(2), terminal);
}

async function runCommand(
  command: Command,
  argv: readonly string[],
  terminal: Terminal,
): Promise<number> {
  const given = parseGiven(command, argv);
  if (given === null) return show(terminal, helpOfCommand(command));
  return command.run(given, terminal);
}

async function show({ stdout }: Terminal, text: string): Promise<number> {
  await print(stdout, text);
  return EXIT.done;
}

const isHelp = (word: string): boolean => word === '--help' || word === '-h' || word === 'help';

/** An unknown first word, or an unknown second one of a group. */
function unknown(given: string, group: string): CliError {
  const start = group === '' ? '' : `${group} `;
  const words = COMMANDS.filter(({ name }) => name.startsWith(start)).map(
    ({ name }) => name.slice(start.length).split(' ')[0] ?? '',
  );
  const near = closest(given, [...words, ...(group === '' ? ['--help', '--version'] : [])]);
  const kind = given.startsWith('-') ? 'option' : 'command';
  const hint = near === null ? '' : ` (did you mean ${start}${near}?)`;
  return usageError(`unknown ${kind} ${clean(`${start}${given}`)}${hint}`, group);
}

function explain(error: unknown): { text: string; exitCode: number } {
  if (error instanceof ConfigError) return { text: error.message, exitCode: EXIT.unusable };
  if (error instanceof CliError) {
    return { text: `error: ${error.message}`, exitCode: error.exitCode };
  }
  if (error instanceof DomainError) {
    const issues = issuesIn(error.details).map((issue) => `\n- ${issue}`);
    const text = `error: ${error.code}: ${error.message}${issues.join('')}`;
    return { text, exitCode: EXIT.failed };
  }
  if (!(error instanceof Error)) return { text: `error: ${String(error)}`, exitCode: EXIT.failed };
  // What the system refuses (a file, a port) needs no stack, nor does a plain Error, which we throw ourselves with a
  // sentence. What is left the language has thrown, or an assertion: a bug, shown whole.
  const isSaid = 'syscall' in error || error.constructor === Error;
  const text = isSaid ? messageOf(error) : (error.stack ?? error.message);
  return { text: `error: ${text}`, exitCode: EXIT.failed };
}
