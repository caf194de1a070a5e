import type { Api, Asked, Told } from './api-client.ts';
import { CliError } from './command.ts';
import type { KeyShown } from './keys.ts';
import { readPages } from './pages.ts';

export type DemoDomain = Readonly<{ id: number; name: string }>;

/** Somebody with a key, and how often they got which answer. */
export type Visitor = Readonly<{
  id: number;
  name: string;
  ask: (asked: Omit<Asked, 'key'>) => Promise<Told>;
  answers: ReadonlyMap<number, number>;
}>;

type Visitors = Readonly<{
  siem: Visitor;
  desk: Visitor;
  admin: Visitor;
  dashboard: Visitor;
  backup: Visitor;
}>;

/** Under `.test` (RFC 6761), where no mail ever comes from or goes to. */
const DOMAINS = [
  { name: 'example-north.test', quarantine_threshold: 10, reject_threshold: 18 },
  { name: 'example-south.test', quarantine_threshold: 8, quarantine_retention_days: 14 },
  { name: 'example-east.test', quarantine_threshold: 12, reject_threshold: 20 },
  { name: 'example-west.test', quarantine_threshold: 6, quarantine_retention_days: 7 },
] as const;
const KEY_LIFE_MS = 86_400_000;
const GRACE_SECONDS = 3_600;

/** The demo's mail domains, made or taken as they are, all with one backend server. */
export async function prepareDomains(api: Api, backend: string): Promise<readonly DemoDomain[]> {
  const there = await readPages<DemoDomain>(api, '/domains');
  const domains: DemoDomain[] = [];
  for (const wanted of DOMAINS) {
    const known = there.find(({ name }) => name === wanted.name);
    const told =
      known === undefined
        ? await api.ask({
            method: 'POST',
            path: '/domains',
            body: { ...wanted, backend_servers: [backend] },
          })
        : await api.ask({
            method: 'PATCH',
            path: `/domains/${known.id}`,
            body: { backend_servers: [backend] },
          });
    const { id, name } = dataOf(told) as DemoDomain;
    domains.push({ id, name });
  }
  return domains;
}

/** New keys of several scopes, which end by themselves: nobody will know them after the demo. */
export async function makeVisitors(
  api: Api,
  domains: readonly DemoDomain[],
  now: Date,
): Promise<Visitors> {
  const north = domains[0]?.name ?? '';
  const make = async (name: string, scope: string, mailDomain?: string): Promise<Visitor> => {
    const body = {
      name: `demo: ${name}`,
      scope,
      rate_limit_per_minute: 600,
      expires_at: new Date(now.getTime() + KEY_LIFE_MS).toISOString(),
      ...(mailDomain === undefined ? {} : { mail_domain: mailDomain }),
    };
    const made = dataOf(await api.ask({ method: 'POST', path: '/auth/api-keys', body }));
    const { id, key = '' } = made as KeyShown;
    return visitorWith(api, { id, name, key });
  };
  return {
    siem: await make('SIEM forwarder', 'read-only'),
    desk: await make('quarantine desk', 'quarantine-only'),
    admin: await make(`admin of ${north}`, 'domain-admin', north),
    dashboard: await make('old dashboard', 'read-only'),
    backup: await make('backup job', 'full-admin'),
  };
}

function visitorWith(
  api: Api,
  { id, name, key }: Readonly<{ id: number; name: string; key: string }>,
): Visitor {
  const answers = new Map<number, number>();
  return {
    id,
    name,
    answers,
    async ask(asked) {
      const told = await api.ask({ ...asked, key });
      answers.set(told.status, (answers.get(told.status) ?? 0) + 1);
      return told;
    },
  };
}

/** What these keys are used for beside the work on messages; some of it is not allowed to them. */
export async function makeTraffic(
  api: Api,
  visitors: Visitors,
  {
    domains,
    messageIds,
  }: Readonly<{ domains: readonly DemoDomain[]; messageIds: readonly string[] }>,
): Promise<readonly Visitor[]> {
  const { siem, desk, admin, dashboard, backup } = visitors;
  const message = `/mail/quarantine/messages/${messageIds[0] ?? ''}`;
  let cursor: string | null = null;
  for (let pages = 0; pages < 3; pages += 1) {
    const query = { limit: '100', cursor };
    const { headers } = await siem.ask({ method: 'GET', path: '/audit/logs', query });
    cursor = String(headers['x-next-cursor']);
  }
  await siem.ask({ method: 'POST', path: `${message}/release` });
  await siem.ask({ method: 'POST', path: '/domains', body: { name: 'example-center.test' } });

  await desk.ask({ method: 'GET', path: '/mail/quarantine', query: { min_score: '20' } });
  await desk.ask({ method: 'GET', path: '/mail/quarantine', query: { reason: 'phishing,virus' } });
  const foreign = `/domains/${domains[1]?.id ?? 0}`;
  await desk.ask({ method: 'PATCH', path: foreign, body: { quarantine_threshold: 1 } });

  await admin.ask({ method: 'GET', path: '/domains' });
  await admin.ask({ method: 'GET', path: '/mail/quarantine', query: { limit: '20' } });
  await admin.ask({ method: 'PATCH', path: foreign, body: { quarantine_threshold: 1 } });

  for (let looks = 0; looks < 5; looks += 1) {
    await dashboard.ask({ method: 'GET', path: '/mail/quarantine', query: { limit: '5' } });
  }
  const revoke = `/auth/api-keys/${dashboard.id}/revoke`;
  dataOf(await api.ask({ method: 'POST', path: revoke, body: { reason: 'demo: replaced' } }));
  await dashboard.ask({ method: 'GET', path: '/mail/quarantine' });

  await backup.ask({ method: 'GET', path: '/domains' });
  const rotate = `/auth/api-keys/${backup.id}/rotate`;
  const body = { grace_seconds: GRACE_SECONDS };
  const rotated = dataOf(await api.ask({ method: 'POST', path: rotate, body }));
  const { id, key = '' } = rotated as KeyShown;
  const successor = visitorWith(api, { id, name: backup.name, key });
  await backup.ask({ method: 'GET', path: '/domains' });
  await successor.ask({ method: 'GET', path: '/domains' });
  return [siem, desk, admin, dashboard, backup, successor];
}

/** What an answer holds that must not be a refusal. */
export function dataOf({ status, data, error, message }: Told): unknown {
  if (status >= 200 && status < 300) return data;
  throw new CliError(`${error ?? String(status)}: ${message}`);
}
