import { describe, it } from 'vitest';
import {
  DISABLE_CAUSES,
  OLD_SECRETS_MAX,
  REPLAYS_MAX,
  type WebhookCommand,
  type WebhookEvent,
  webhook,
} from '../../src/domain/webhook.ts';
import { given } from '../support/given.ts';

const subscription = given(webhook);

const NOON = '2026-05-01T12:00:00.000000Z';
const ONE = '2026-05-01T13:00:00.000000Z';
const TWO = '2026-05-01T14:00:00.000000Z';
const URL = 'https://hooks.example.com/a?team=mail';

const data = {
  event_types: ['quarantine.added'],
  ordering: 'none',
  mail_domain: '7',
  start_after: null,
  enabled: true,
  secret: '1a2b3c4d',
} as const;
type Of<Type extends WebhookEvent['type']> = Extract<WebhookEvent, { type: Type }>;
const created: Of<'webhook.created'> = { type: 'webhook.created', data };
const createdPaused: Of<'webhook.created'> = {
  type: 'webhook.created',
  data: { ...data, enabled: false },
};
const paused: WebhookEvent = { type: 'webhook.paused', data: {} };
const resumed: WebhookEvent = { type: 'webhook.resumed', data: {} };
const deleted: WebhookEvent = { type: 'webhook.deleted', data: {} };
const gone: WebhookEvent = { type: 'webhook.disabled', data: { cause: 'gone' } };
const enabled: WebhookEvent = { type: 'webhook.enabled', data: { resume: 'cursor' } };
const rotated = (...secrets: readonly (readonly [string, string | null])[]): WebhookEvent => ({
  type: 'webhook.secret_rotated',
  data: { secrets: secrets.map(([fingerprint, until]) => ({ fingerprint, until })) },
});
const range = (id: number) => ({
  replay_id: String(id),
  after: '0',
  until: '120',
  event_types: null,
});
const replayAsked = (id: number): WebhookEvent => ({
  type: 'webhook.replay_requested',
  data: range(id),
});
const replayCancelled = (id: number): WebhookEvent => ({
  type: 'webhook.replay_cancelled',
  data: { replay_id: String(id) },
});
const replayEnded = (id: number): WebhookEvent => ({
  type: 'webhook.replay_ended',
  data: { replay_id: String(id), delivered: '3', failed: '1' },
});

const create: WebhookCommand = {
  type: 'CreateWebhook',
  data,
  told: { url: URL, description: 'ticket system' },
};
const update = (
  changes: Extract<WebhookCommand, { type: 'UpdateWebhook' }>['changes'] = {},
  told: Extract<WebhookCommand, { type: 'UpdateWebhook' }>['told'] = null,
): WebhookCommand => ({ type: 'UpdateWebhook', changes, told });
const rotate = (
  fingerprint: string,
  graceUntil: string | null = ONE,
  now = NOON,
): WebhookCommand => ({ type: 'RotateSecret', fingerprint, graceUntil, now });
const pause: WebhookCommand = { type: 'PauseWebhook' };
const resume: WebhookCommand = { type: 'ResumeWebhook' };
const disable: WebhookCommand = { type: 'DisableWebhook', cause: 'gone' };
const enable: WebhookCommand = { type: 'EnableWebhook', resume: 'cursor' };
const remove: WebhookCommand = { type: 'DeleteWebhook' };
const replay = (id: number): WebhookCommand => ({
  type: 'RequestReplay',
  data: range(id),
  reason: 'their database was restored',
});
const cancelReplay = (id: number): WebhookCommand => ({
  type: 'CancelReplay',
  replayId: String(id),
});
const endReplay = (id: number): WebhookCommand => ({
  type: 'EndReplay',
  replayId: String(id),
  delivered: 3n,
  failed: 1n,
});

describe('CreateWebhook', () => {
  it('makes a subscription, with where and what for outside the line', () =>
    subscription()
      .when(create)
      .records({
        ...created,
        personal: [
          { name: 'url', value: URL, class: 'identity' },
          { name: 'description', value: 'ticket system', class: 'identity' },
        ],
      }));
  it('commits to a description also where there is none', () =>
    subscription()
      .when({ ...create, told: { url: URL, description: null } })
      .records({
        ...created,
        personal: [
          { name: 'url', value: URL, class: 'identity' },
          { name: 'description', value: null, class: 'identity' },
        ],
      }));
  it('refuses one that is there, or was', () => {
    subscription(created).when(create).refuses('already_exists');
    subscription(created, deleted).when(create).refuses('already_exists');
  });
});

describe('every other command', () => {
  const commands = [
    update({ event_types: ['*'] }),
    rotate('5e6f7081'),
    pause,
    resume,
    disable,
    enable,
    remove,
    replay(1),
    cancelReplay(1),
    endReplay(1),
  ];
  it.each(commands.map((command) => [command.type, command] as const))(
    '%s: refuses one that was never made, or is deleted',
    (_, command) => {
      subscription().when(command).refuses('not_found');
      subscription(created, deleted).when(command).refuses('not_found');
      subscription(created, replayAsked(1), gone, deleted).when(command).refuses('not_found');
    },
  );
});

describe('UpdateWebhook', () => {
  it('begins an epoch with other event types, and tells the whole filter', () =>
    subscription(created)
      .when(update({ event_types: ['quarantine.added', 'quarantine.released'] }))
      .records({
        type: 'webhook.updated',
        data: {
          event_types: ['quarantine.added', 'quarantine.released'],
          ordering: 'none',
          begins_epoch: true,
        },
      }));
  it('begins none with another ordering, or the same event types', () => {
    const keyed = {
      type: 'webhook.updated',
      data: { event_types: ['quarantine.added'], ordering: 'key', begins_epoch: false },
    } as const;
    subscription(created)
      .when(update({ ordering: 'key' }))
      .records(keyed);
    subscription(created)
      .when(update({ event_types: ['quarantine.added'], ordering: 'key' }))
      .records(keyed);
  });
  it('begins none with the same event types in another order', () => {
    const two = { ...data, event_types: ['quarantine.added', 'quarantine.released'] };
    subscription({ type: 'webhook.created', data: two })
      .when(update({ event_types: ['quarantine.released', 'quarantine.added'] }))
      .recordsNothing();
    subscription({
      type: 'webhook.created',
      data: { ...data, event_types: ['quarantine.released', 'quarantine.added'] },
    })
      .when(update({ event_types: ['quarantine.added', 'quarantine.released'] }))
      .recordsNothing();
  });
  it('tells another URL or description outside the line', () =>
    subscription(created)
      .when(update({}, { url: 'https://other.example.com/', description: null }))
      .records({
        type: 'webhook.updated',
        data: { event_types: ['quarantine.added'], ordering: 'none', begins_epoch: false },
        personal: [
          { name: 'url', value: 'https://other.example.com/', class: 'identity' },
          { name: 'description', value: null, class: 'identity' },
        ],
      }));
  it('compares with what was changed last', () => {
    const starred: WebhookEvent = {
      type: 'webhook.updated',
      data: { event_types: ['*'], ordering: 'key', begins_epoch: true },
    };
    subscription(created, starred)
      .when(update({ event_types: ['*'], ordering: 'key' }))
      .recordsNothing();
    subscription(created, starred)
      .when(update({ event_types: ['quarantine.added'] }))
      .records({
        type: 'webhook.updated',
        data: { event_types: ['quarantine.added'], ordering: 'key', begins_epoch: true },
      });
  });
  it('records nothing when nothing is other', () => {
    subscription(created).when(update()).recordsNothing();
    subscription(created)
      .when(update({ event_types: ['quarantine.added'], ordering: 'none' }))
      .recordsNothing();
  });
  it('changes one that is paused or disabled, too', () => {
    const keyed: WebhookEvent = {
      type: 'webhook.updated',
      data: { event_types: ['quarantine.added'], ordering: 'key', begins_epoch: false },
    };
    subscription(created, paused)
      .when(update({ ordering: 'key' }))
      .records(keyed);
    subscription(created, gone)
      .when(update({ ordering: 'key' }))
      .records(keyed);
  });
});

describe('RotateSecret', () => {
  it('lets the old one sign behind the new one for its grace', () =>
    subscription(created)
      .when(rotate('5e6f7081'))
      .records(rotated(['5e6f7081', null], ['1a2b3c4d', ONE])));
  it('ends the old one at once without a grace', () =>
    subscription(created)
      .when(rotate('5e6f7081', null))
      .records(rotated(['5e6f7081', null])));
  it('lets one whose grace was shorter keep its own end', () => {
    const past = [created, rotated(['b', null], ['1a2b3c4d', ONE])] as const;
    subscription(...past)
      .when(rotate('c', TWO))
      .records(rotated(['c', null], ['b', TWO], ['1a2b3c4d', ONE]));
  });
  it('gives no old one a longer grace than it was promised', () => {
    const past = [created, rotated(['b', null], ['1a2b3c4d', TWO])] as const;
    subscription(...past)
      .when(rotate('c', ONE))
      .records(rotated(['c', null], ['b', ONE], ['1a2b3c4d', TWO]));
  });
  it('drops those whose grace is over, to the microsecond', () => {
    const past = [created, rotated(['b', null], ['1a2b3c4d', ONE])] as const;
    subscription(...past)
      .when(rotate('c', TWO, ONE))
      .records(rotated(['c', null], ['b', TWO]));
    subscription(...past)
      .when(rotate('c', TWO, '2026-05-01T12:59:59.999999Z'))
      .records(rotated(['c', null], ['b', TWO], ['1a2b3c4d', ONE]));
  });
  it(`keeps at most ${OLD_SECRETS_MAX} old ones, the newest of them`, () => {
    const past = [created, rotated(['c', null], ['b', TWO], ['1a2b3c4d', TWO])] as const;
    subscription(...past)
      .when(rotate('d', TWO))
      .records(rotated(['d', null], ['c', TWO], ['b', TWO]));
  });
  it('refuses a secret that signs already, as the newest or in its grace', () => {
    const past = [created, rotated(['b', null], ['1a2b3c4d', ONE])] as const;
    const issues = [{ path: 'secret', message: 'is one that signs already' }];
    for (const fingerprint of ['b', '1a2b3c4d']) {
      subscription(...past)
        .when(rotate(fingerprint))
        .refuses('validation_failed', { issues });
    }
  });
  it('works for one that is paused or disabled, too', () => {
    const both = rotated(['b', null], ['1a2b3c4d', ONE]);
    subscription(created, paused).when(rotate('b')).records(both);
    subscription(created, gone).when(rotate('b')).records(both);
  });
});

describe('PauseWebhook', () => {
  it('holds one that is active, also once it was resumed or enabled', () => {
    subscription(created).when(pause).records(paused);
    subscription(created, paused, resumed).when(pause).records(paused);
    subscription(created, gone, enabled).when(pause).records(paused);
  });
  it('records nothing for one that is held', () => {
    subscription(created, paused).when(pause).recordsNothing();
    subscription(createdPaused).when(pause).recordsNothing();
  });
  it('refuses one that is disabled', () =>
    subscription(created, gone).when(pause).refuses('state_conflict', { status: 'disabled' }));
});

describe('ResumeWebhook', () => {
  it('goes on with one that is held, or was made so', () => {
    subscription(created, paused).when(resume).records(resumed);
    subscription(createdPaused).when(resume).records(resumed);
  });
  it('records nothing for one that is active', () => {
    subscription(created).when(resume).recordsNothing();
    subscription(createdPaused, resumed).when(resume).recordsNothing();
  });
  it('refuses one that is disabled', () =>
    subscription(created, gone).when(resume).refuses('state_conflict', { status: 'disabled' }));
});

describe('DisableWebhook', () => {
  it.each(DISABLE_CAUSES)('ends deliveries because of %s', (cause) =>
    subscription(created)
      .when({ type: 'DisableWebhook', cause })
      .records({ type: 'webhook.disabled', data: { cause } }),
  );
  it('records nothing for one that is held or disabled already', () => {
    subscription(created, paused).when(disable).recordsNothing();
    subscription(createdPaused).when(disable).recordsNothing();
    subscription(created, gone).when(disable).recordsNothing();
  });
});

describe('EnableWebhook', () => {
  it('delivers again, from the cursor or from now', () => {
    subscription(created, gone).when(enable).records(enabled);
    subscription(created, gone)
      .when({ type: 'EnableWebhook', resume: 'now' })
      .records({ type: 'webhook.enabled', data: { resume: 'now' } });
  });
  it('records nothing for one that is active, and leaves out nothing of it', () => {
    subscription(created).when(enable).recordsNothing();
    subscription(created, gone, enabled).when(enable).recordsNothing();
    subscription(created).when({ type: 'EnableWebhook', resume: 'now' }).recordsNothing();
  });
  it('refuses one that is held', () => {
    for (const past of [[created, paused], [createdPaused]]) {
      subscription(...past)
        .when(enable)
        .refuses('state_conflict', { status: 'paused' });
    }
  });
});

describe('DeleteWebhook', () => {
  it('ends one, whatever its state', () => {
    for (const past of [[created], [created, paused], [created, gone], [created, replayAsked(1)]]) {
      subscription(...past)
        .when(remove)
        .records(deleted);
    }
  });
});

describe('RequestReplay', () => {
  const asked = {
    ...replayAsked(1),
    personal: [{ name: 'reason', value: 'their database was restored', class: 'content' }],
  } as WebhookEvent;
  const nine = Array.from({ length: REPLAYS_MAX - 1 }, (_, n) => replayAsked(n + 2));

  it('asks for a range, with the reason outside the line', () =>
    subscription(created).when(replay(1)).records(asked));
  it('waits for one that is held or disabled', () => {
    subscription(created, paused).when(replay(1)).records(asked);
    subscription(created, gone).when(replay(1)).records(asked);
  });
  it(`refuses more than ${REPLAYS_MAX} at a time, and counts those without an end alone`, () => {
    subscription(created, ...nine)
      .when(replay(1))
      .records(asked);
    const full = [created, ...nine, replayAsked(REPLAYS_MAX + 1)];
    const replays = Array.from({ length: REPLAYS_MAX }, (_, n) => String(n + 2));
    subscription(...full)
      .when(replay(1))
      .refuses('state_conflict', { replays });
    subscription(...full, replayEnded(2))
      .when(replay(1))
      .records(asked);
    subscription(...full, replayCancelled(3))
      .when(replay(1))
      .records(asked);
  });
});

describe('CancelReplay and EndReplay', () => {
  it('leave the others running', () => {
    for (const past of [replayEnded(1), replayCancelled(1)]) {
      subscription(created, replayAsked(1), replayAsked(2), past)
        .when(cancelReplay(2))
        .records(replayCancelled(2));
    }
  });
  it('end one that runs', () => {
    subscription(created, replayAsked(1)).when(cancelReplay(1)).records(replayCancelled(1));
    subscription(created, replayAsked(1)).when(endReplay(1)).records(replayEnded(1));
  });
  it('record nothing for one that was never asked for, or has ended', () => {
    for (const command of [cancelReplay(1), endReplay(1)]) {
      subscription(created).when(command).recordsNothing();
      subscription(created, replayAsked(2)).when(command).recordsNothing();
      subscription(created, replayAsked(1), replayEnded(1)).when(command).recordsNothing();
      subscription(created, replayAsked(1), replayCancelled(1)).when(command).recordsNothing();
    }
  });
});

describe('notes', () => {
  it('change no decision, should one ever stand in the stream', () => {
    const notes: WebhookEvent[] = [
      { type: 'webhook.failing', data: { since: NOON, hours: 1, cause: 'http_error' } },
      { type: 'webhook.recovered', data: { since: NOON } },
      { type: 'webhook.backlog', data: { retries: 10_000 } },
      { type: 'webhook.pinged', data: { outcome: 'delivered', status: 200 } },
      { type: 'webhook.resend_requested', data: { event_id: 'x', position: '1' } },
      {
        type: 'webhook.event_parked',
        data: { event_id: 'x', position: '1', tries: 10, cause: 'gave_up' },
      },
    ];
    subscription(created, ...notes)
      .when(pause)
      .records(paused);
    subscription(created, paused, ...notes)
      .when(pause)
      .recordsNothing();
    subscription(created, gone, ...notes)
      .when(enable)
      .records(enabled);
  });
});
