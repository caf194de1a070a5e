import { execFileSync } from 'node:child_process';

const STAYS = `\
<!-- Written by \`npm run all --prefix bench -- --out FILE\`; not by hand. -->

# Benchmarks

All of them, one after the other, on one commit and one machine. Load generator, receivers, Node and PostgreSQL share
its cores. Figures are medians of interleaved rounds with their range in brackets; ratios are of the same round. A target is
what was promised before anything was measured; one that is missed stays here as missed.
`;

/**
 * All that was found, as a document that can be committed.
 * @param {readonly { name: string, text: string, found: null | { targets: readonly object[] } }[]} benches
 */
export function toDocument(benches, minutes) {
  const targets = benches.flatMap(({ name, found }) =>
    (found?.targets ?? []).map((target) => ({ name, ...target })),
  );
  const rows = targets.map(
    ({ name, text, kind, bound, value, met }) =>
      `| ${name} | ${text} | ${kind} ${bound} | ${met ? value : `**${value}, missed**`} |`,
  );
  return [
    STAYS,
    `Commit ${commit()}, ${new Date().toISOString().slice(0, 10)}, ${minutes} minutes in all.\n`,
    '| bench | target | asked | measured |\n| --- | --- | --- | --- |',
    `${rows.join('\n')}\n`,
    ...benches.map(({ name, text }) => `## ${name}\n\n\`\`\`\n${printed(text)}\n\`\`\`\n`),
  ].join('\n');
}

const commit = () =>
  execFileSync('git', ['describe', '--always', '--dirty'], { encoding: 'utf8' }).trim();

/** What a bench said to people: without its own heading, and without the line for programs. */
const printed = (text) =>
  text
    .split('\n')
    .filter((line) => !line.startsWith('{"bench"') && !line.startsWith('== '))
    .join('\n')
    .trim()
    .replaceAll(/\n{3,}/g, '\n\n');
