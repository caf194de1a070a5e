import { CliError, type Command, EXIT, type Given, JSON_OPTION, unusable } from './command.ts';
import type { ExportVerdict } from './export-soundness.ts';
import { sayDamage } from './findings.ts';
import { count, counted } from './numbers.ts';
import { startProgress } from './progress.ts';
import { print, printJson, type Terminal } from './terminal.ts';

export const auditVerify: Command = {
  name: 'audit verify',
  summary: 'Check an export of evidence, with nothing but the file.',
  description: [
    'Checks that each line is canonical JSON with the members it must have (line), that it committed to',
    'each value that is disclosed (disclosure), that positions ascend (order) without a gap (gap), that',
    'revisions of a stream go on (stream), that recorded times never fall (time), that there is a trailer',
    '(cut) and that it counts what is there (trailer). Packed files (gzip) are read as they are.',
    'It asks no server. Who rewrites a line, and all that goes with it, or leaves out lines at an end, is found',
    'out only by comparing with an export that is kept elsewhere: lines are not signed yet ("signed": false).',
  ],
  parameters: ['FILE'],
  options: {
    filtered: { help: 'The export was filtered: positions and revisions may be left out.' },
    ...JSON_OPTION,
  },
  environment: [],
  exits: {
    0: 'the export is sound',
    1: 'it is damaged: standard error has each class and its first position',
    2: 'it is no export of evidence, or cannot be read',
  },
  run: runVerify,
};

async function runVerify(given: Given, terminal: Terminal): Promise<number> {
  const [file = ''] = given.parameters;
  const { verifyExport } = await import('./export-soundness.ts');
  const progress = startProgress(terminal, 'Verifying');
  const options = {
    isFiltered: given.has('filtered'),
    onProgress: (done: number) => progress.update(done, null),
    signal: terminal.signal,
  };
  const { verdict, findings } = await verifyExport(file, options)
    .catch((error: unknown) => refuse(error, terminal))
    .finally(() => progress.end());
  if (given.has('json')) await printJson(terminal.stdout, verdict);
  else await print(terminal.stdout, describe(verdict, options));
  await sayDamage(findings, terminal);
  return verdict.ok ? EXIT.done : EXIT.failed;
}

/** A file that cannot be read is no damage of what was exported, and has its own exit status. */
function refuse(error: unknown, { signal }: Terminal): never {
  if (signal.aborted || !(error instanceof Error) || error instanceof CliError) throw error;
  throw unusable(`The file cannot be read. ${error.message}`);
}

function describe(verdict: ExportVerdict, { isFiltered }: { isFiltered: boolean }): string {
  const { ok, events, streams, first, last, disclosures, undisclosed } = verdict;
  const found =
    `${ok ? 'Sound' : 'Damaged'}: ${counted(events, 'event')} in ${counted(streams, 'stream')}, positions ` +
    `${first ?? '-'} to ${last ?? '-'}, ${counted(disclosures, 'disclosure')}, ${count(undisclosed)} not disclosed.\n`;
  if (!ok) return found;
  const where = isFiltered ? '' : ' at its ends';
  return (
    `${found}Not signed: it agrees with itself, and nothing else was asked. An edit that keeps the form and the digests ` +
    `of a line is not seen, nor are lines left out${where} with a trailer to match.\n`
  );
}
