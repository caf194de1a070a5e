import type { Decider, DomainEvent, Json, PersonalMember } from './decider.ts';
import { DomainError } from './errors.ts';

export const ORDERINGS = ['none', 'key', 'strict'] as const;
/**
 * `none`: as fast as it goes, in order at best. `key`: events of one stream one after the other. `strict`: all
 * of them one after the other.
 */
export type Ordering = (typeof ORDERINGS)[number];

/** Why deliveries were ended until somebody enables them again; the cursor stays where it was. */
export const DISABLE_CAUSES = ['gone', 'receiver', 'outage', 'config'] as const;
export type DisableCause = (typeof DISABLE_CAUSES)[number];

/** What is delivered: types of the catalogue, or `*` alone for all of them. */
type Filter = Readonly<{ event_types: readonly string[]; ordering: Ordering }>;
/** A secret as the log knows it: the first 8 hex digits of its SHA-256. Null until: it signs first. */
type SecretRef = Readonly<{ fingerprint: string; until: string | null }>;
type Nothing = Readonly<Record<string, never>>;

export type WebhookEvent =
  /** `url` and `description` are personal members; `start_after` null means behind this very event. */
  | DomainEvent<
      'webhook.created',
      Filter &
        Readonly<{
          mail_domain: string | null;
          start_after: string | null;
          enabled: boolean;
          secret: string;
        }>
    >
  /** The whole of what can be changed, as it is from here on. Other event types begin a new epoch. */
  | DomainEvent<'webhook.updated', Filter & Readonly<{ begins_epoch: boolean }>>
  | DomainEvent<'webhook.secret_rotated', Readonly<{ secrets: readonly SecretRef[] }>>
  | DomainEvent<'webhook.paused' | 'webhook.resumed' | 'webhook.deleted', Nothing>
  | DomainEvent<'webhook.disabled', Readonly<{ cause: DisableCause }>>
  /** `now` leaves out what was not delivered until here, and begins a new epoch. */
  | DomainEvent<'webhook.enabled', Readonly<{ resume: Resume }>>
  /** The endpoint has not answered well for so many hours. */
  | DomainEvent<'webhook.failing', Readonly<{ since: string; hours: number; cause: string }>>
  | DomainEvent<'webhook.recovered', Readonly<{ since: string }>>
  /** The retry set is full, so the cursor waits. */
  | DomainEvent<'webhook.backlog', Readonly<{ retries: number }>>
  | DomainEvent<'webhook.pinged', Readonly<{ outcome: string; status: number | null }>>
  | DomainEvent<
      'webhook.event_parked',
      Readonly<{ event_id: string; position: string; tries: number; cause: ParkCause }>
    >
  | DomainEvent<'webhook.resend_requested', Readonly<{ event_id: string; position: string }>>
  | DomainEvent<
      'webhook.replay_requested',
      Readonly<{
        replay_id: string;
        after: string;
        until: string;
        event_types: readonly string[] | null;
      }>
    >
  | DomainEvent<'webhook.replay_cancelled', Readonly<{ replay_id: string }>>
  | DomainEvent<
      'webhook.replay_ended',
      Readonly<{ replay_id: string; delivered: string; failed: string }>
    >;

type Resume = 'cursor' | 'now';
export type ParkCause = 'gave_up' | 'aborted_by_receiver';

/** Where and what for, as people wrote it. */
type Told = Readonly<{ url: string; description: string | null }>;

export type WebhookCommand =
  | Readonly<{
      type: 'CreateWebhook';
      data: Extract<WebhookEvent, { type: 'webhook.created' }>['data'];
      told: Told;
    }>
  | Readonly<{
      type: 'UpdateWebhook';
      changes: Readonly<{ event_types?: readonly string[]; ordering?: Ordering }>;
      /** As it shall be from here on; null when neither is changed. */
      told: Told | null;
    }>
  | Readonly<{ type: 'RotateSecret'; fingerprint: string; graceUntil: string | null; now: string }>
  | Readonly<{ type: 'PauseWebhook' | 'ResumeWebhook' | 'DeleteWebhook' }>
  | Readonly<{ type: 'DisableWebhook'; cause: DisableCause }>
  | Readonly<{ type: 'EnableWebhook'; resume: Resume }>
  | Readonly<{
      type: 'RequestReplay';
      data: Extract<WebhookEvent, { type: 'webhook.replay_requested' }>['data'];
      reason: string;
    }>
  | Readonly<{ type: 'CancelReplay'; replayId: string }>
  | Readonly<{ type: 'EndReplay'; replayId: string; delivered: bigint; failed: bigint }>;

/** Facts that no decision hangs on: they stand in a stream of their own, and are only added to it. */
export type WebhookNote = Extract<
  WebhookEvent,
  {
    type:
      | 'webhook.failing'
      | 'webhook.recovered'
      | 'webhook.backlog'
      | 'webhook.pinged'
      | 'webhook.event_parked'
      | 'webhook.resend_requested';
  }
>;

/** A subscription as its decisions need it. */
export type Webhook = Readonly<{
  status: 'absent' | 'active' | 'paused' | 'disabled' | 'deleted';
  filter: Filter | null;
  secrets: readonly SecretRef[];
  /** Replays without an end. */
  replays: readonly string[];
}>;

/** Secrets that go on signing beside the newest. */
export const OLD_SECRETS_MAX = 2;
/** Replays of one subscription at a time. */
export const REPLAYS_MAX = 10;

const initialState: Webhook = { status: 'absent', filter: null, secrets: [], replays: [] };

function evolve(state: Webhook, event: WebhookEvent): Webhook {
  switch (event.type) {
    case 'webhook.created':
      return {
        ...state,
        status: event.data.enabled ? 'active' : 'paused',
        filter: event.data,
        secrets: [{ fingerprint: event.data.secret, until: null }],
      };
    case 'webhook.updated':
      return { ...state, filter: event.data };
    case 'webhook.secret_rotated':
      return { ...state, secrets: event.data.secrets };
    case 'webhook.paused':
      return { ...state, status: 'paused' };
    case 'webhook.resumed':
    case 'webhook.enabled':
      return { ...state, status: 'active' };
    case 'webhook.disabled':
      return { ...state, status: 'disabled' };
    case 'webhook.deleted':
      return { ...state, status: 'deleted' };
    case 'webhook.replay_requested':
      return { ...state, replays: [...state.replays, event.data.replay_id] };
    case 'webhook.replay_cancelled':
    case 'webhook.replay_ended':
      return { ...state, replays: state.replays.filter((id) => id !== event.data.replay_id) };
    default:
      return state;
  }
}

function decide(command: WebhookCommand, state: Webhook): readonly WebhookEvent[] {
  if (command.type === 'CreateWebhook') {
    if (state.status !== 'absent') throw new DomainError('already_exists', 'It exists already');
    return [{ type: 'webhook.created', data: command.data, personal: personal(command.told) }];
  }
  if (state.status === 'absent' || state.status === 'deleted') {
    throw new DomainError('not_found', 'No such webhook');
  }
  switch (command.type) {
    case 'UpdateWebhook':
      return update(command, state);
    case 'RotateSecret':
      return rotate(command, state);
    case 'PauseWebhook':
      if (state.status === 'disabled') throw conflict(state, 'paused');
      return state.status === 'paused' ? [] : [{ type: 'webhook.paused', data: {} }];
    case 'ResumeWebhook':
      if (state.status === 'disabled') throw conflict(state, 'resumed: enable it');
      return state.status === 'active' ? [] : [{ type: 'webhook.resumed', data: {} }];
    case 'DisableWebhook':
      // Paused meanwhile: nothing is delivered, and its operator has seen to it.
      return state.status === 'active'
        ? [{ type: 'webhook.disabled', data: { cause: command.cause } }]
        : [];
    case 'EnableWebhook':
      if (state.status === 'paused') throw conflict(state, 'enabled: resume it');
      return state.status === 'active'
        ? []
        : [{ type: 'webhook.enabled', data: { resume: command.resume } }];
    case 'DeleteWebhook':
      return [{ type: 'webhook.deleted', data: {} }];
    default:
      return decideReplay(command, state);
  }
}

/** A URL that events are sent to, from a place in the log on: a cursor over the log. */
export const webhook: Decider<Webhook, WebhookCommand, WebhookEvent> = {
  initialState,
  evolve,
  decide,
};

export const webhookStream = (id: string): string => `webhook-${id}`;
export const webhookNotesStream = (id: string): string => `webhook_notes-${id}`;

/** Where the events of one subscription go, and what they are about. */
export const webhookTarget = ({
  id,
  mailDomain,
}: Readonly<{ id: number; mailDomain: number | null }>) => ({
  stream: webhookStream(String(id)),
  resource: { type: 'webhook', id: String(id) },
  mailDomains: mailDomain === null ? [] : [String(mailDomain)],
});

function update(
  { changes, told }: Extract<WebhookCommand, { type: 'UpdateWebhook' }>,
  { filter }: Webhook,
): readonly WebhookEvent[] {
  if (filter === null) throw new Error('a webhook without a filter');
  const { event_types, ordering } = { ...filter, ...changes };
  // In another order they are the same.
  const begins_epoch = [...event_types].sort().join() !== [...filter.event_types].sort().join();
  if (!begins_epoch && ordering === filter.ordering && told === null) return [];
  return [
    {
      type: 'webhook.updated',
      data: { event_types, ordering, begins_epoch },
      ...(told === null ? {} : { personal: personal(told) }),
    },
  ];
}

function rotate(
  { fingerprint, graceUntil, now }: Extract<WebhookCommand, { type: 'RotateSecret' }>,
  { secrets }: Webhook,
): readonly WebhookEvent[] {
  if (secrets.some((secret) => secret.fingerprint === fingerprint)) {
    const issues = [{ path: 'secret', message: 'is one that signs already' }];
    throw new DomainError('validation_failed', 'The webhook has this secret.', { issues });
  }
  const old = secrets
    // The one that signed first until now; one whose grace was shorter keeps its own end.
    .map((secret) => ({ ...secret, until: secret.until ?? graceUntil ?? now }))
    .filter(({ until }) => until > now)
    .slice(0, OLD_SECRETS_MAX);
  return [
    { type: 'webhook.secret_rotated', data: { secrets: [{ fingerprint, until: null }, ...old] } },
  ];
}

function decideReplay(
  command: Extract<WebhookCommand, { type: 'RequestReplay' | 'CancelReplay' | 'EndReplay' }>,
  state: Webhook,
): readonly WebhookEvent[] {
  switch (command.type) {
    case 'RequestReplay':
      if (state.replays.length >= REPLAYS_MAX) {
        throw new DomainError('state_conflict', `${REPLAYS_MAX} replays are running already.`, {
          replays: state.replays,
        });
      }
      return [
        {
          type: 'webhook.replay_requested',
          data: command.data,
          personal: [{ name: 'reason', value: command.reason, class: 'content' }],
        },
      ];
    case 'CancelReplay': {
      const { replayId: replay_id } = command;
      return state.replays.includes(replay_id)
        ? [{ type: 'webhook.replay_cancelled', data: { replay_id } }]
        : [];
    }
    case 'EndReplay': {
      const { replayId: replay_id } = command;
      const counts = { delivered: String(command.delivered), failed: String(command.failed) };
      return state.replays.includes(replay_id)
        ? [{ type: 'webhook.replay_ended', data: { replay_id, ...counts } }]
        : [];
    }
  }
}

const personal = ({ url, description }: Told): readonly PersonalMember[] => [
  { name: 'url', value: url, class: 'identity' },
  { name: 'description', value: description satisfies Json, class: 'identity' },
];

const conflict = ({ status }: Webhook, what: string): DomainError =>
  new DomainError('state_conflict', `The webhook is ${status}; it cannot be ${what}.`, { status });
