import { nextId } from '../../db/ids.ts';
import { isNarrowed, type Principal, sees } from '../../domain/access.ts';
import { DomainError } from '../../domain/errors.ts';
import { type MailDomainCommand, mailDomain } from '../../domain/mail-domain.ts';
import { handleCommand } from '../../eventlog/handle-command.ts';
import {
  findMailDomain,
  listMailDomains,
  type MailDomainRow,
  mailDomainStream,
  normaliseMailDomainName,
} from '../../projections/mail-domains.ts';
import type { Context } from '../context.ts';
import { invalid } from '../input.ts';
import {
  DEFAULT_SETTINGS,
  type MailDomainChange,
  MailDomainChanges,
  MailDomainView,
  requireUnchanged,
  settingsIn,
  viewMailDomain,
  viewMailDomains,
} from '../mail-domain-view.ts';
import { BASE_PATH } from '../paths.ts';
import { type Answer, type Call, route } from '../route.ts';
import { IdText, LIST_HEADERS, ListQuery, listHeaders, Text } from '../schemas.ts';
import { z } from '../zod.ts';

const Params = z.strictObject({ id: IdText });

const read = { operation: 'read', reach: 'mail_domain' } as const;
const write = { operation: 'write', reach: 'mail_domain' } as const;
const tag = 'Mail domains';

const listDomains = route({
  id: 'listMailDomains',
  method: 'get',
  path: '/domains',
  tag,
  summary: 'List protected mail domains, newest first.',
  permission: read,
  query: ListQuery,
  reply: z.array(MailDomainView),
  responseHeaders: LIST_HEADERS,
  errors: [],
  async handle(context, { query, principal }) {
    const only = isNarrowed(principal) ? (principal.mailDomain ?? 0) : null;
    const page = { only, before: query.cursor ?? null, limit: query.limit + 1 };
    const rows = await listMailDomains(context.pool, page);
    const list = listHeaders(`${BASE_PATH}/domains`, rows, query.limit);
    return { data: await viewMailDomains(context, list.page), headers: list.headers };
  },
});

const createDomain = route({
  id: 'createMailDomain',
  method: 'post',
  path: '/domains',
  tag,
  summary: 'Protect a mail domain.',
  description:
    'Names are normalised (IDNA) and unique. A name that is deleted and registered again is another ' +
    'mail domain with another id: keys that were bound to the old one stay without it.',
  permission: { operation: 'write', reach: 'installation' },
  body: MailDomainChanges.omit({ id: true, created_at: true, updated_at: true }).extend({
    name: Text(253),
  }),
  reply: MailDomainView,
  status: 201,
  message: 'Created',
  errors: ['already_exists'],
  example: {
    body: {
      name: 'example.com',
      direction: 'inbound',
      backend_servers: ['mail.example.com:25'],
      quarantine_threshold: 10,
      reject_threshold: 18,
    },
  },
  async handle(context, { body, meta, commandId }) {
    const name = normaliseMailDomainName(body.name);
    if (name === null) throw invalid([{ path: 'name', message: 'is no name of a DNS domain' }]);
    const id = await nextId(context.pool, 'mail_domain');
    const settings = { ...DEFAULT_SETTINGS, ...settingsIn(body) };
    const backendServers = body.backend_servers ?? [];
    const handled = await handleCommand(context.log, mailDomain, {
      stream: mailDomainStream(context.secrets, name),
      resource: { type: 'mail_domain', id: String(id) },
      mailDomains: [String(id)],
      command: { type: 'CreateMailDomain', id: String(id), name, settings, backendServers },
      meta,
      commandId,
    });
    const madeId = Number(handled.earlier?.[0]?.resource.id ?? id);
    const isVisible = await context.projector.caughtUp(handled.position ?? 0n, ['mail_domains']);
    const at = handled.recordedAt ?? '';
    return {
      data: {
        id: madeId,
        name,
        ...settings,
        backend_servers: backendServers,
        created_at: at,
        updated_at: at,
      },
      status: isVisible ? 201 : 202,
      revision: handled.revision,
      headers: { Location: `${BASE_PATH}/domains/${madeId}` },
    };
  },
});

const getDomain = route({
  id: 'getMailDomain',
  method: 'get',
  path: '/domains/{id}',
  tag,
  summary: 'Show one mail domain.',
  permission: read,
  params: Params,
  reply: MailDomainView,
  changesWithRevision: true,
  errors: ['not_found'],
  async handle(context, { params, principal }) {
    const row = await findVisible(context, principal, params.id);
    return { data: await viewMailDomain(context, row), revision: row.revision };
  },
});

const update = {
  path: '/domains/{id}',
  tag,
  permission: write,
  params: Params,
  body: MailDomainChanges,
  mergePatch: true,
  conditional: true,
  reply: MailDomainView,
  message: 'Updated',
  errors: ['not_found', 'stale'],
  example: { body: { quarantine_threshold: 8 } },
} as const;

const replaceDomain = route({
  ...update,
  id: 'replaceMailDomain',
  method: 'put',
  summary: 'Change a mail domain; members that are left out stay as they are.',
  description: 'Takes a whole object as it was read, or only what is to change (a merge patch).',
  handle: (context, call) => change(context, call),
});

const patchDomain = route({
  ...update,
  id: 'patchMailDomain',
  method: 'patch',
  summary: 'Change some settings of a mail domain (JSON merge patch).',
  handle: (context, call) => change(context, call),
});

const deleteDomain = route({
  id: 'deleteMailDomain',
  method: 'delete',
  path: '/domains/{id}',
  tag,
  summary: 'Stop protecting a mail domain, and revoke the keys that are bound to it.',
  permission: write,
  params: Params,
  conditional: true,
  reply: z.null(),
  message: 'Deleted',
  errors: ['not_found', 'stale'],
  example: { params: { id: 2 } },
  async handle(context, { params, principal, meta, commandId, ifMatch }) {
    const row = await findVisible(context, principal, params.id);
    const { position } = await handleCommand(context.log, mailDomain, {
      ...targetOf(row),
      command: { type: 'DeleteMailDomain', id: String(row.id) },
      meta,
      commandId,
      ifRevision: ifMatch,
    });
    await context.finishMailDomainDeletion(row.id, meta);
    const { position: head } = await context.log.head();
    const isDone = await context.projector.caughtUp(position === null ? 0n : head, [
      'mail_domains',
      'api_keys',
      'sender_filters',
    ]);
    return { data: null, status: isDone ? 200 : 202 };
  },
});

export const mailDomainRoutes = [
  listDomains,
  createDomain,
  getDomain,
  replaceDomain,
  patchDomain,
  deleteDomain,
];

async function change(
  context: Context,
  call: Call<{ id: number }, unknown, MailDomainChange>,
): Promise<Answer<z.input<typeof MailDomainView>>> {
  const { body, meta, commandId } = call;
  // What is compared with the row must not be compared with an older one.
  await context.projector.caughtUp((await context.log.head()).position, ['mail_domains']);
  const row = await findVisible(context, call.principal, call.params.id);
  const before = await viewMailDomain(context, row);
  requireUnchanged(before, body);
  const servers = body.backend_servers;
  const isSame = servers === undefined || servers.join() === row.backendServers.join();
  const command: MailDomainCommand = {
    type: 'UpdateMailDomain',
    id: String(row.id),
    changes: settingsIn(body),
    backendServers: isSame ? null : servers,
  };
  const handled = await handleCommand(context.log, mailDomain, {
    ...targetOf(row),
    command,
    meta,
    commandId,
    ifRevision: call.ifMatch,
  });
  const isVisible = await context.projector.caughtUp(handled.position ?? 0n, ['mail_domains']);
  const after = isVisible ? await findMailDomain(context.pool, row.id) : null;
  // Others may have changed other members meanwhile: the answer is one state, with its own revision.
  if (after !== null) {
    return { data: await viewMailDomain(context, after), revision: after.revision };
  }
  return {
    data: {
      ...before,
      ...(handled.state.settings ?? {}),
      backend_servers: [...(servers ?? row.backendServers)],
      updated_at: handled.recordedAt ?? row.updatedAt,
    },
    status: isVisible ? 200 : 202,
    revision: handled.revision,
  };
}

async function findVisible(
  { pool }: Context,
  principal: Principal,
  id: number,
): Promise<MailDomainRow> {
  const row = sees(principal, id) ? await findMailDomain(pool, id) : null;
  if (row === null) throw new DomainError('not_found', 'No such mail domain.');
  return row;
}

const targetOf = (row: MailDomainRow) => ({
  stream: row.stream,
  resource: { type: 'mail_domain', id: String(row.id) },
  mailDomains: [String(row.id)],
});
