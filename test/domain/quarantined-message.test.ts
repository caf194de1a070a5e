import { describe, it } from 'vitest';
import type {
  FilterWish,
  QuarantineCommand,
  QuarantineEvent,
} from '../../src/domain/quarantine-language.ts';
import { OPEN_STATES, quarantinedMessage, STATES } from '../../src/domain/quarantined-message.ts';
import { given } from '../support/given.ts';
import {
  added,
  addedData,
  bounceAsked,
  NOW,
  releaseAsked,
  results,
} from '../support/held-message.ts';

const message = given(quarantinedMessage);

const envelope = [
  { name: 'sender', value: 'billing@spam.example', class: 'content' },
  { name: 'recipients.7', value: ['ann@d7.example', 'bob@d7.example'], class: 'content' },
  { name: 'recipients.none', value: ['jo@elsewhere.example'], class: 'content' },
] as const;
const wish: FilterWish = { filter_ids: ['5'], scope: 'mail_domain', expires_at: null };
const because = (value: string | null) => [{ name: 'reason', value, class: 'content' }] as const;

// What has happened. Recipients are numbers 0 to 2.
const started: QuarantineEvent = {
  type: 'quarantine.release_started',
  data: { attempt: 1, recipients: [0, 1, 2] },
};
const partlyReleased: readonly QuarantineEvent[] = [
  added,
  releaseAsked([0]),
  { type: 'quarantine.release_started', data: { attempt: 1, recipients: [0] } },
  { type: 'quarantine.partly_released', data: { attempt: 1, results: results({ 0: 'accepted' }) } },
];
const failed: QuarantineEvent = {
  type: 'quarantine.release_failed',
  data: { attempt: 1, results: results({ 0: 'refused' }), cause: 'refused' },
};
const released: QuarantineEvent = {
  type: 'quarantine.released',
  data: { attempt: 1, results: results({ 0: 'accepted', 1: 'accepted', 2: 'accepted' }) },
};
const discardAsked: QuarantineEvent = {
  type: 'quarantine.discard_requested',
  data: { block_sender: null },
};
const undelivered: QuarantineEvent = {
  type: 'quarantine.undelivered',
  data: { attempt: 1, results: results({ 0: 'accepted', 1: 'refused' }) },
};
const discarded: QuarantineEvent = { type: 'quarantine.discarded', data: {} };
const rejected: QuarantineEvent = {
  type: 'quarantine.rejected',
  data: { attempt: 1, results: results({ 0: 'accepted' }) },
};
const expired: QuarantineEvent = { type: 'quarantine.expired', data: {} };
const vanished: QuarantineEvent = { type: 'quarantine.vanished', data: {} };

/** A way to each state. */
const WAYS: Readonly<Record<(typeof STATES)[number], readonly QuarantineEvent[]>> = {
  held: [added],
  release_requested: [added, releaseAsked()],
  release_failed: [added, releaseAsked(), started, failed],
  released: [added, releaseAsked(), started, released],
  undelivered: [added, releaseAsked(), started, undelivered],
  discard_requested: [added, discardAsked],
  discarded: [added, discardAsked, discarded],
  reject_requested: [added, bounceAsked],
  rejected: [added, bounceAsked, rejected],
  expired: [added, expired],
  vanished: [added, vanished],
};
const waysBut = (...states: (typeof STATES)[number][]) =>
  STATES.filter((state) => !states.includes(state)).map((state) => [state, WAYS[state]] as const);
const waysOf = (...states: (typeof STATES)[number][]) =>
  states.map((state) => [state, WAYS[state]] as const);

// What is asked for.
const add: QuarantineCommand = { type: 'AddMessage', data: addedData, personal: envelope };
const release = (recipients: readonly number[] | null = null): QuarantineCommand => ({
  type: 'RequestRelease',
  recipients,
  allowSender: null,
  reason: null,
});
const discard: QuarantineCommand = { type: 'RequestDiscard', blockSender: null, reason: null };
const reject: QuarantineCommand = { type: 'RequestReject', reason: null };
const expire: QuarantineCommand = { type: 'Expire' };
const vanish: QuarantineCommand = { type: 'Vanish' };

describe('AddMessage', () => {
  it('holds a message, with its envelope outside the line', () =>
    message()
      .when(add)
      .records({ ...added, personal: envelope }));
  it.each(Object.entries(WAYS))('records nothing for one that is there already: %s', (_, past) =>
    message(...past)
      .when(add)
      .recordsNothing(),
  );
});

describe('a message that is not there', () => {
  it.each<QuarantineCommand>([
    release(),
    discard,
    reject,
    expire,
    vanish,
    { type: 'RequestRetrain', class: 'spam' },
    { type: 'StartTransfer' },
    { type: 'FinishDiscard' },
  ])('refuses $type', (command) => message().when(command).refuses('not_found'));
});

describe('RequestRelease', () => {
  it.each(waysOf('held', 'release_failed'))('releases one that is %s', (_, past) =>
    message(...past)
      .when({ ...release(), allowSender: wish, reason: 'expected' } as QuarantineCommand)
      .records({
        type: 'quarantine.release_requested',
        data: { recipients: null, allow_sender: wish },
        personal: because('expected'),
      }),
  );
  it('releases for some of the recipients', () =>
    message(added)
      .when(release([0, 2]))
      .records({ ...releaseAsked([0, 2]), personal: because(null) }));
  it('releases for the others afterwards', () =>
    message(...partlyReleased)
      .when(release([1]))
      .records({ ...releaseAsked([1]), personal: because(null) }));
  it('refuses while it is under way for others', () =>
    message(added, releaseAsked([0]), started)
      .when(release([0, 1]))
      .refuses('state_conflict', { state: 'release_requested' }));
  it('records nothing for some of those it is under way for', () =>
    message(added, releaseAsked([0, 1]), started)
      .when(release([1]))
      .recordsNothing());
  it('records nothing for recipients who have it', () =>
    message(...partlyReleased)
      .when(release([0]))
      .recordsNothing());
  it.each(waysOf('release_requested', 'released'))(
    'records nothing for one that is %s',
    (_, past) =>
      message(...past)
        .when(release())
        .recordsNothing(),
  );
  it.each(waysBut('held', 'release_failed', 'release_requested', 'released'))(
    'refuses one that is %s',
    (state, past) =>
      message(...past)
        .when(release())
        .refuses('state_conflict', { state }),
  );
});

describe('RequestDiscard', () => {
  it.each(waysOf('held', 'release_failed'))('discards one that is %s', (_, past) =>
    message(...past)
      .when({ type: 'RequestDiscard', blockSender: wish, reason: 'phishing' })
      .records({
        type: 'quarantine.discard_requested',
        data: { block_sender: wish },
        personal: because('phishing'),
      }),
  );
  it('discards what is left of one that some recipients have', () =>
    message(...partlyReleased)
      .when(discard)
      .records({ ...discardAsked, personal: because(null) }));
  it.each(waysOf('discard_requested', 'discarded'))(
    'records nothing for one that is %s',
    (_, past) =>
      message(...past)
        .when(discard)
        .recordsNothing(),
  );
  it.each(waysBut('held', 'release_failed', 'discard_requested', 'discarded'))(
    'refuses one that is %s',
    (state, past) =>
      message(...past)
        .when(discard)
        .refuses('state_conflict', { state }),
  );
});

describe('FinishDiscard', () => {
  it('ends a discard', () =>
    message(added, discardAsked).when({ type: 'FinishDiscard' }).records(discarded));
  it.each(waysBut('discard_requested'))('records nothing for one that is %s', (_, past) =>
    message(...past)
      .when({ type: 'FinishDiscard' })
      .recordsNothing(),
  );
});

describe('RequestReject', () => {
  it.each(waysOf('held', 'release_failed'))('sends back one that is %s', (_, past) =>
    message(...past)
      .when({ type: 'RequestReject', reason: 'no thanks' })
      .records({ ...bounceAsked, personal: because('no thanks') }),
  );
  it.each(waysOf('reject_requested', 'rejected'))('records nothing for one that is %s', (_, past) =>
    message(...past)
      .when(reject)
      .recordsNothing(),
  );
  it.each(waysBut('held', 'release_failed', 'reject_requested', 'rejected'))(
    'refuses one that is %s',
    (state, past) =>
      message(...past)
        .when(reject)
        .refuses('state_conflict', { state }),
  );
});

describe('RequestRetrain', () => {
  it.each(Object.entries(WAYS))('asks for it whatever became of the message: %s', (_, past) =>
    message(...past)
      .when({ type: 'RequestRetrain', class: 'ham' })
      .records({ type: 'quarantine.retrain_requested', data: { class: 'ham' } }),
  );
});

describe('FinishRetrain', () => {
  it.each([
    ['learned', 200, 'quarantine.retrained'],
    ['already_known', 208, 'quarantine.retrained'],
    ['refused', 400, 'quarantine.retrain_failed'],
    ['unavailable', null, 'quarantine.retrain_failed'],
  ] as const)('%s (%s) is %s', (outcome, status, type) =>
    message(added, { type: 'quarantine.retrain_requested', data: { class: 'spam' } })
      .when({ type: 'FinishRetrain', class: 'spam', outcome, status })
      .records({ type, data: { class: 'spam', outcome, status } }),
  );
});

describe('Expire', () => {
  it.each(waysOf('held', 'release_failed'))('ends one that is %s', (_, past) =>
    message(...past)
      .when(expire)
      .records(expired),
  );
  it.each(waysBut('held', 'release_failed'))('records nothing for one that is %s', (_, past) =>
    message(...past)
      .when(expire)
      .recordsNothing(),
  );
  it('waits for the retry of a release', () =>
    message(added, releaseAsked(), started, {
      type: 'quarantine.release_deferred',
      data: { attempt: 1, results: results({ 0: 'deferred' }), retry_at: NOW },
    })
      .when(expire)
      .recordsNothing());
});

describe('Vanish', () => {
  it.each(waysOf(...OPEN_STATES))('ends one that is %s', (_, past) =>
    message(...past)
      .when(vanish)
      .records(vanished),
  );
  it.each(waysBut(...OPEN_STATES))('records nothing for one that is %s', (_, past) =>
    message(...past)
      .when(vanish)
      .recordsNothing(),
  );
});

describe('Vanish of a message that its mail server knew', () => {
  it('says what its log says', () =>
    message(added)
      .when({ type: 'Vanish', how: 'removed' })
      .records({ type: 'quarantine.vanished', data: { how: 'removed' } }));
});

describe('NoteScan', () => {
  const unscanned: QuarantineEvent = {
    type: 'quarantine.added',
    data: { ...addedData, score: null, symbols: [], reason: 'unscanned' },
  };
  const scan = { score: 17.5, symbols: ['LATE'], reason: 'spam' } as const;
  const scanned: QuarantineEvent = { type: 'quarantine.scanned', data: scan };

  it('is added to one that nobody had looked at', () =>
    message(unscanned).when({ type: 'NoteScan', scan }).records(scanned));
  it('leaves the message where it is', () =>
    message(unscanned, scanned).when(expire).records(expired));
  it('may come again while nobody has really looked', () =>
    message(unscanned, { type: 'quarantine.scanned', data: { ...scan, reason: 'unscanned' } })
      .when({ type: 'NoteScan', scan })
      .records(scanned));
  it.each([
    ['was looked at before', [added]],
    ['has it already', [unscanned, scanned]],
    ['has ended', [unscanned, vanished]],
  ] as const)('is not added to one that %s', (_, past) =>
    message(...past)
      .when({ type: 'NoteScan', scan })
      .recordsNothing(),
  );
});

describe('the ways of this test', () => {
  it('lead where they say', ({ expect }) => {
    for (const [state, past] of Object.entries(WAYS)) {
      const reached = past.reduce(quarantinedMessage.evolve, quarantinedMessage.initialState);
      expect([state, reached.state]).toEqual([state, state]);
    }
    const partly = partlyReleased.reduce(
      quarantinedMessage.evolve,
      quarantinedMessage.initialState,
    );
    expect(partly.state).toBe('held');
  });
});
