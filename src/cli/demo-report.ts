import { join } from 'node:path';
import type { Config } from '../config.ts';
import type { Api } from './api-client.ts';
import { dataDirOf } from './data-dir.ts';
import type { Acts } from './demo-acts.ts';
import type { DemoImport } from './demo-import.ts';
import type { DemoDomain, Visitor } from './demo-people.ts';
import type { DemoSink } from './demo-sink.ts';
import type { KeyShown } from './keys.ts';
import { count, counted } from './numbers.ts';
import { readPages } from './pages.ts';
import { table } from './table.ts';
import { clean, print, printJson, type Terminal } from './terminal.ts';

type Counts = Readonly<Record<string, number>>;

/** What there is when the demo has ended. */
export type Seen = Readonly<{
  corpus: string;
  imported: Omit<DemoImport, 'mails'>;
  acts: Acts;
  smtp_sink: Readonly<{ address: string; arrived: number }>;
  mail_domains: readonly (DemoDomain & Readonly<{ messages: Counts }>)[];
  keys: readonly Readonly<{
    id: number;
    name: string;
    scope: string;
    status: string;
    answers: Counts;
  }>[];
  sender_filters: number;
  seconds: number;
  /** Commands to look on with. */
  next: readonly string[];
}>;

type Item = Readonly<{ id: string; state: string }>;

/** Ids of what is held for the demo's mail domains. */
export async function findHeld(
  api: Api,
  domains: readonly DemoDomain[],
): Promise<ReadonlySet<string>> {
  const ids = new Set<string>();
  for (const { id } of domains) {
    const query = { domain: String(id), state: 'held' };
    for (const item of await readPages<Item>(api, '/mail/quarantine', query)) ids.add(item.id);
  }
  return ids;
}

type Done = Readonly<{
  corpus: string;
  imported: Omit<DemoImport, 'mails'>;
  acts: Acts;
  sink: DemoSink;
  domains: readonly DemoDomain[];
  visitors: readonly Visitor[];
  config: Config;
  startedAt: number;
}>;

/** Asks the gateway what it has now. */
export async function lookAround(api: Api, done: Done): Promise<Seen> {
  const { corpus, imported, acts, sink, visitors, config } = done;
  const domains: (DemoDomain & { messages: Counts })[] = [];
  for (const domain of done.domains) {
    const query = { domain: String(domain.id), state: 'any' };
    const items = await readPages<Item>(api, '/mail/quarantine', query);
    const messages: Record<string, number> = {};
    for (const { state } of items) messages[state] = (messages[state] ?? 0) + 1;
    domains.push({ ...domain, messages });
  }
  const known = await readPages<KeyShown>(api, '/auth/api-keys');
  const keys = visitors.map(({ id, name, answers }) => {
    const { scope = '', status = '' } = known.find((key) => key.id === id) ?? {};
    return { id, name, scope, status, answers: Object.fromEntries(answers) };
  });
  return {
    corpus,
    imported,
    acts,
    smtp_sink: { address: sink.address, arrived: sink.arrived() },
    mail_domains: domains,
    keys,
    sender_filters: (await readPages(api, '/sender-filters')).length,
    seconds: Math.round(performance.now() - done.startedAt) / 1_000,
    next: nextSteps(api, config, visitors),
  };
}

/** With the name of the key's file, never the key. */
function nextSteps(api: Api, config: Config, visitors: readonly Visitor[]): string[] {
  const desk = visitors.find(({ name }) => name === 'quarantine desk');
  const { url } = api;
  const curl = `curl -s${trustOf(config)} -H "X-API-Key: ${keyOf(config)}"`;
  return [
    '/mail/quarantine?limit=5',
    '/audit/logs?action=quarantine.*&limit=5',
    `/auth/api-keys/${desk?.id ?? 0}/activity`,
  ].map((path) => `${curl} "${url}/api/v1${path}"`);
}

function keyOf(config: Config): string {
  if (config.apiKey !== null) return '$MAILGUARD_API_KEY';
  if (config.bootstrapKey !== null) return '$MAILGUARD_BOOTSTRAP_KEY';
  return `$(cat ${quoted(join(dataDirOf(config), 'bootstrap-key'))})`;
}

const trustOf = ({ url, tls }: Config): string =>
  url === null && tls !== null ? ` --cacert ${quoted(tls.certPath)}` : '';

const quoted = (path: string): string =>
  /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;

export async function printSeen({ stdout }: Terminal, seen: Seen, isJson: boolean): Promise<void> {
  if (isJson) await printJson(stdout, seen);
  else await print(stdout, textOf(seen));
}

function textOf({ imported, acts, smtp_sink: sink, ...seen }: Seen): string {
  const refused = sum(imported.refused);
  const { bulk } = acts;
  return [
    `${counted(imported.imported, 'mail')} imported, ${count(imported.already_there)} already there, ` +
      `${count(refused)} refused${detailsOf(imported.refused)}.`,
    `Released: ${listed(acts.released)}; ${count(sink.arrived)} arrived at the SMTP server.`,
    `Discarded: ${listed(acts.discarded)}; in bulk: ${listed(bulk.real)} ` +
      `(dry run: ${listed(bulk.dry_run)}).`,
    `Retrained: ${listed(acts.retrained)}. Previewed: ${acts.previewed}. ` +
      `Sender filters there are: ${count(seen.sender_filters)}.`,
    '',
    table(['mail domain', 'held', 'released', 'discarded', 'other'], seen.mail_domains.map(toRow)),
    table(['key', 'name', 'scope', 'status', 'answers'], seen.keys.map(toKeyRow)),
    'Look on with:',
    ...seen.next.map((line) => `  ${clean(line)}`),
    '',
    `The SMTP server has ended with this command, and the demo's mail domains still point at it ` +
      `(${sink.address}):`,
    'a release is accepted (202) and tried again until their backend_servers name one that answers.',
    '',
  ].join('\n');
}

const sum = (counts: Counts): number => Object.values(counts).reduce((a, b) => a + b, 0);

const listed = (counts: Counts): string =>
  Object.entries(counts)
    .map(([what, n]) => `${count(n)} ${what}`)
    .join(', ') || 'none';

const detailsOf = (counts: Counts): string => (sum(counts) === 0 ? '' : ` (${listed(counts)})`);

function toRow({ name, messages }: Seen['mail_domains'][number]): string[] {
  const { held = 0, released = 0, discarded = 0 } = messages;
  const other = sum(messages) - held - released - discarded;
  return [name, ...[held, released, discarded, other].map(count)];
}

const toKeyRow = ({ id, name, scope, status, answers }: Seen['keys'][number]): string[] => [
  String(id),
  name,
  scope,
  status,
  Object.entries(answers)
    .map(([code, n]) => `${n} x ${code}`)
    .join(', '),
];
