import type pg from 'pg';
import { loadConfig } from '../config.ts';
import { CliError, type Command, EXIT, type Given, JSON_OPTION, unusable } from './command.ts';
import { type Findings, sayDamage } from './findings.ts';
import type { Joined } from './join.ts';
import type { Verdict } from './log-soundness.ts';
import { counted } from './numbers.ts';
import { type Progress, startProgress } from './progress.ts';
import { JOINER } from './settings.ts';
import { print, printJson, type Terminal } from './terminal.ts';

export const logVerify: Command = {
  name: 'log verify',
  summary: 'Check the event log in the database against itself.',
  description: [
    'Checks that positions have no gap (gap), revisions of a stream neither (stream), recorded times',
    'never fall (time), lines are canonical JSON with the members they must have (line), columns say',
    'what their line says (column), each personal value that is left was committed by its line',
    '(disclosure), names are those recorded (name), the index of mail domains is that of the lines',
    '(mail_domain), and no read model has seen more than there is (head).',
    'It changes nothing and takes no lock: a gateway may run meanwhile. Memory is bounded but for one',
    'number a stream and the list of mail domains. Whoever rewrites lines, columns and digests alike',
    'is found out by an export or a signed checkpoint kept elsewhere, not by this.',
  ],
  options: JSON_OPTION,
  environment: JOINER,
  exits: {
    0: 'the log is sound',
    1: 'it is damaged: standard error has the class and its first position',
    2: 'it cannot be checked, or wrong use',
  },
  run: runVerify,
};

async function runVerify(given: Given, terminal: Terminal): Promise<number> {
  const config = loadConfig(terminal.env);
  const progress = startProgress(terminal, 'Verifying');
  const { withDatabase } = await import('./join.ts');
  const { verdict, findings } = await withDatabase(config, (joined) =>
    verify(joined, progress, terminal),
  )
    .catch((error: unknown) => refuse(error, terminal))
    .finally(() => progress.end());
  if (given.has('json')) await printJson(terminal.stdout, verdict);
  else await print(terminal.stdout, describe(verdict));
  await sayDamage(findings, terminal);
  return verdict.ok ? EXIT.done : EXIT.failed;
}

async function verify(
  { url, logUrl, role }: Joined,
  progress: Progress,
  { signal }: Terminal,
): Promise<{ verdict: Verdict; findings: Findings }> {
  const [{ openClient }, { verifyLog }, { furthestCheckpoint }] = await Promise.all([
    import('../db/pool.ts'),
    import('./log-soundness.ts'),
    import('../projections/checkpoint.ts'),
  ]);
  const on = async <Result>(database: string, work: (db: pg.Client) => Promise<Result>) => {
    const db = openClient({ url: database, role });
    try {
      await db.connect();
      return await work(db);
    } finally {
      await db.end();
    }
  };
  const appliedTo = await on(url, furthestCheckpoint);
  return on(logUrl, (db) => verifyLog(db, { appliedTo, onProgress: progress.update, signal }));
}

/** Whatever keeps us from checking is not damage, and has its own exit status. */
function refuse(error: unknown, { signal }: Terminal): never {
  if (signal.aborted || !(error instanceof Error)) throw error;
  const message = error instanceof CliError ? error.message : `${error.name}: ${error.message}`;
  throw unusable(`The log cannot be checked. ${message}`);
}

const describe = ({ ok, events, streams, disclosures, head }: Verdict): string =>
  `${ok ? 'Sound' : 'Damaged'}: ${counted(events, 'event')} in ${counted(streams, 'stream')}, ` +
  `${counted(disclosures, 'disclosure')}, head ${head}.\n`;
