import type { Clock } from '../clock.ts';
import type { EventLog } from '../eventlog/eventlog.ts';
import { commandIdOf } from '../eventlog/handle-command.ts';
import { metaAfter, type OpenedHistory } from './quarantine-history.ts';
import { makeSenderFilter } from './sender-filters.ts';

type Deps = Readonly<{ log: EventLog; clock: Clock; nodeId: string }>;

/**
 * Makes the sender filters that came with a release or a discard, before its effect: one that was made
 * already stays as it is, so a crash between loses and doubles none.
 */
export async function makeWishedFilters(deps: Deps, history: OpenedHistory): Promise<void> {
  const { wish, disclosed, asked } = history;
  if (wish === null || asked === null || !disclosed.sender) return;
  const targets = targetsOf(history);
  for (const [index, filterId] of wish.filters.filter_ids.entries()) {
    const target = targets[index];
    if (target === undefined) continue;
    await makeSenderFilter(deps, {
      filterId,
      kind: wish.kind,
      scope: wish.filters.scope,
      ...target,
      sender: disclosed.sender,
      expiresAt: wish.filters.expires_at,
      madeBy: history.id,
      meta: metaAfter(history, deps),
      commandId: commandIdOf(Date.parse(asked.occurred_at), `filter/${filterId}`),
    });
  }
}

type Target = Readonly<{ mailDomain: string | null; recipient: string | null }>;

/** Whom filters of a scope are for, in the order in which their ids were given out. */
function targetsOf({ wish, disclosed }: OpenedHistory): readonly Target[] {
  if (wish?.filters.scope === 'global') return [{ mailDomain: null, recipient: null }];
  const groups = disclosed.recipients.map(({ mail_domain: id, addresses }) => ({
    mailDomain: id === null ? null : String(id),
    addresses,
  }));
  if (wish?.filters.scope === 'mail_domain') {
    return groups.flatMap(({ mailDomain }) =>
      mailDomain === null ? [] : [{ mailDomain, recipient: null }],
    );
  }
  return groups
    .flatMap(({ mailDomain, addresses }) =>
      addresses.map((recipient) => ({ mailDomain, recipient })),
    )
    .filter((_, number) => wish?.recipients === null || wish?.recipients.includes(number));
}
