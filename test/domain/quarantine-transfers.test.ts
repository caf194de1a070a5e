import { describe, expect, it } from 'vitest';
import type {
  FailureCause,
  QuarantineCommand,
  QuarantineEvent,
} from '../../src/domain/quarantine-language.ts';
import { RETRY_SECONDS } from '../../src/domain/quarantine-transfers.ts';
import { quarantinedMessage } from '../../src/domain/quarantined-message.ts';
import { given } from '../support/given.ts';
import {
  added,
  bounceAsked,
  type Fared,
  NOW,
  releaseAsked,
  results,
} from '../support/held-message.ts';

const message = given(quarantinedMessage);

/** As the decider writes it. */
const inSeconds = (seconds: number): string =>
  new Date(Date.parse(NOW) + seconds * 1_000).toISOString().replace('Z', '000Z');

const replies = [{ recipient: 'ann@d7.example', server: '192.0.2.25:25', reply: '250 Ok' }];
const told = [{ name: 'replies', value: replies, class: 'content' }] as const;

const begun = (
  verb: 'release' | 'reject',
  what: 'started' | 'interrupted',
  attempt: number,
  ...recipients: number[]
): QuarantineEvent => ({ type: `quarantine.${verb}_${what}`, data: { attempt, recipients } });
const started = (attempt: number, ...recipients: number[]) =>
  begun('release', 'started', attempt, ...recipients);
const deferred = (attempt: number, outcomes: Record<number, Fared>): QuarantineEvent => ({
  type: 'quarantine.release_deferred',
  data: { attempt, results: results(outcomes), retry_at: inSeconds(RETRY_SECONDS[attempt - 1]!) },
});
const failed = (
  attempt: number,
  outcomes: Record<number, Fared>,
  cause: FailureCause,
): QuarantineEvent => ({
  type: 'quarantine.release_failed',
  data: { attempt, results: results(outcomes), cause },
});
const ended = (
  type: 'released' | 'partly_released' | 'rejected',
  attempt: number,
  outcomes: Record<number, Fared>,
): QuarantineEvent => ({
  type: `quarantine.${type}`,
  data: { attempt, results: results(outcomes) },
});

const start: QuarantineCommand = { type: 'StartTransfer' };
const finish = (
  attempt: number,
  outcomes: Readonly<Record<number, Fared>>,
  cause: FailureCause | null = null,
): QuarantineCommand => ({
  type: 'FinishTransfer',
  attempt,
  results: results(outcomes),
  replies,
  now: NOW,
  cause,
});

describe('StartTransfer', () => {
  it('begins a release for all who were asked for', () => {
    message(added, releaseAsked())
      .when(start)
      .records(started(1, 0, 1, 2));
    message(added, releaseAsked([2, 0]))
      .when(start)
      .records(started(1, 2, 0));
  });
  it('leaves out who has it, and who was refused for good', () =>
    message(
      added,
      releaseAsked(),
      started(1, 0, 1, 2),
      deferred(1, { 0: 'accepted', 1: 'refused' }),
    )
      .when(start)
      .records(started(2, 2)));
  it('takes those who were deferred, or whose outcome nobody knows, again', () =>
    message(
      added,
      releaseAsked(),
      started(1, 0, 1, 2),
      deferred(1, { 0: 'deferred', 1: 'unknown' }),
    )
      .when(start)
      .records(started(2, 0, 1, 2)));
  it('says of a try without an end that it was cut off', () =>
    message(added, releaseAsked(), started(1, 0, 1, 2))
      .when(start)
      .records(begun('release', 'interrupted', 1, 0, 1, 2), started(2, 0, 1, 2)));
  it('says it once', () =>
    message(
      ...[added, releaseAsked([1]), started(1, 1), begun('release', 'interrupted', 1, 1)],
      ...[started(2, 1), deferred(2, { 1: 'deferred' })],
    )
      .when(start)
      .records(started(3, 1)));
  it('counts from one again, and asks the refused again, when it is asked for again', () =>
    message(
      ...[added, releaseAsked(), started(1, 0, 1, 2)],
      ...[failed(1, { 0: 'accepted', 1: 'refused', 2: 'accepted' }, 'refused'), releaseAsked()],
    )
      .when(start)
      .records(started(1, 1)));
  it('begins a bounce', () => {
    message(added, bounceAsked)
      .when(start)
      .records(begun('reject', 'started', 1, 0, 1, 2));
    message(added, bounceAsked, begun('reject', 'started', 1, 0, 1, 2))
      .when(start)
      .records(begun('reject', 'interrupted', 1, 0, 1, 2), begun('reject', 'started', 2, 0, 1, 2));
  });
  it('says it once of a bounce, and nothing of one that was put off', () => {
    const bounce = [added, bounceAsked, begun('reject', 'started', 1, 0, 1, 2)];
    const second = begun('reject', 'started', 2, 0, 1, 2);
    message(...bounce, begun('reject', 'interrupted', 1, 0, 1, 2))
      .when(start)
      .records(second);
    message(...bounce, {
      type: 'quarantine.reject_deferred',
      data: { attempt: 1, results: results({ 0: 'deferred' }), retry_at: inSeconds(5) },
    })
      .when(start)
      .records(second);
  });
  it('bounces for those alone who have not got it', () =>
    message(
      ...[added, releaseAsked([1]), started(1, 1)],
      ...[ended('partly_released', 1, { 1: 'accepted' }), bounceAsked],
    )
      .when(start)
      .records(begun('reject', 'started', 1, 0, 2)));
  it.each<[string, readonly QuarantineEvent[]]>([
    ['held', [added]],
    [
      'released',
      [added, releaseAsked(), started(1, 0, 1, 2), ended('released', 1, { 0: 'accepted' })],
    ],
    ['failed', [added, releaseAsked(), started(1, 0, 1, 2), failed(1, {}, 'no_route')]],
    ['vanished', [added, releaseAsked(), { type: 'quarantine.vanished', data: {} }]],
  ])('refuses when nothing is under way: %s', (_, past) =>
    message(...past)
      .when(start)
      .refuses('state_conflict'),
  );
});

const ALL = [added, releaseAsked(), started(1, 0, 1, 2)] as const;

describe('FinishTransfer of a release', () => {
  it('is released when every recipient was accepted', () =>
    message(...ALL)
      .when(finish(1, { 0: 'accepted', 1: 'accepted', 2: 'accepted' }))
      .records({
        ...ended('released', 1, { 0: 'accepted', 1: 'accepted', 2: 'accepted' }),
        personal: told,
      }));
  it('is released when the last ones were accepted', () =>
    message(...ALL, deferred(1, { 0: 'accepted', 1: 'unknown', 2: 'deferred' }), started(2, 1, 2))
      .when(finish(2, { 1: 'accepted', 2: 'accepted' }))
      .records({ ...ended('released', 2, { 1: 'accepted', 2: 'accepted' }), personal: told }));
  it('is partly released when some were asked for and have it', () =>
    message(added, releaseAsked([0]), started(1, 0))
      .when(finish(1, { 0: 'accepted' }))
      .records({ ...ended('partly_released', 1, { 0: 'accepted' }), personal: told }));
  it('is released when the others follow', () =>
    message(
      ...[added, releaseAsked([0]), started(1, 0), ended('partly_released', 1, { 0: 'accepted' })],
      ...[releaseAsked([1, 2]), started(1, 1, 2)],
    )
      .when(finish(1, { 1: 'accepted', 2: 'accepted' }))
      .records({ ...ended('released', 1, { 1: 'accepted', 2: 'accepted' }), personal: told }));
  it.each<Fared>(['deferred', 'unknown'])('is tried again when one is %s', (outcome) =>
    message(...ALL)
      .when(finish(1, { 0: 'accepted', 1: 'accepted', 2: outcome }))
      .records({ ...deferred(1, { 0: 'accepted', 1: 'accepted', 2: outcome }), personal: told }),
  );
  it('is tried again for those of whom nothing was said', () =>
    message(...ALL)
      .when(finish(1, { 0: 'accepted' }))
      .records({ ...deferred(1, { 0: 'accepted' }), personal: told }));
  it('has failed when one was refused and nobody is left', () =>
    message(...ALL)
      .when(finish(1, { 0: 'accepted', 1: 'refused', 2: 'accepted' }))
      .records({
        ...failed(1, { 0: 'accepted', 1: 'refused', 2: 'accepted' }, 'refused'),
        personal: told,
      }));
  it('first tries the deferred again, then fails for the refused', () => {
    const first = { 0: 'accepted', 1: 'refused', 2: 'deferred' } as const;
    message(...ALL)
      .when(finish(1, first))
      .records({ ...deferred(1, first), personal: told });
    message(...ALL, deferred(1, first), started(2, 2))
      .when(finish(2, { 2: 'accepted' }))
      .records({ ...failed(2, { 2: 'accepted' }, 'refused'), personal: told });
  });
  it.each(RETRY_SECONDS.map((seconds, index) => [index + 1, seconds]))(
    'waits after try %i for %i seconds',
    (attempt, seconds) =>
      message(added, releaseAsked([0]), started(attempt, 0))
        .when(finish(attempt, { 0: 'deferred' }))
        .records({
          type: 'quarantine.release_deferred',
          data: { attempt, results: results({ 0: 'deferred' }), retry_at: inSeconds(seconds) },
          personal: told,
        }),
  );
  it.each<Fared>(['deferred', 'unknown'])('gives up after the last try that was %s', (outcome) => {
    const last = RETRY_SECONDS.length + 1;
    message(added, releaseAsked(), started(last, 0, 1, 2))
      .when(finish(last, { 0: 'accepted', 1: 'refused', 2: outcome }))
      .records({
        ...failed(last, { 0: 'accepted', 1: 'refused', 2: outcome }, 'gave_up'),
        personal: told,
      });
  });
  it.each<FailureCause>(['no_route', 'content_gone'])('fails at once: %s', (cause) =>
    message(...ALL)
      .when(finish(1, {}, cause))
      .records({ ...failed(1, {}, cause), personal: told }),
  );
});

describe('FinishTransfer of a bounce', () => {
  const past = [added, bounceAsked, begun('reject', 'started', 1, 0, 1, 2)];

  it('is rejected when the sender’s server took it', () =>
    message(...past)
      .when(finish(1, { 0: 'accepted' }))
      .records({ ...ended('rejected', 1, { 0: 'accepted' }), personal: told }));
  it.each<Fared>(['deferred', 'unknown'])('is tried again when it was %s', (outcome) =>
    message(...past)
      .when(finish(1, { 0: outcome }))
      .records({
        type: 'quarantine.reject_deferred',
        data: { attempt: 1, results: results({ 0: outcome }), retry_at: inSeconds(5) },
        personal: told,
      }),
  );
  it.each<[string, QuarantineCommand, FailureCause, Record<number, Fared>]>([
    ['refused', finish(1, { 0: 'refused' }), 'refused', { 0: 'refused' }],
    ['no relay', finish(1, {}, 'no_route'), 'no_route', {}],
    ['no bytes', finish(1, {}, 'content_gone'), 'content_gone', {}],
    [
      'no bytes, whatever was said',
      finish(1, { 0: 'accepted' }, 'no_route'),
      'no_route',
      { 0: 'accepted' },
    ],
  ])('has failed, and the message is held: %s', (_, command, cause, outcomes) =>
    message(...past)
      .when(command)
      .records({
        type: 'quarantine.reject_failed',
        data: { attempt: 1, results: results(outcomes), cause },
        personal: told,
      }),
  );
  it('gives up after the last try', () => {
    const last = RETRY_SECONDS.length + 1;
    message(added, bounceAsked, begun('reject', 'started', last, 0, 1, 2))
      .when(finish(last, { 0: 'deferred' }))
      .records({
        type: 'quarantine.reject_failed',
        data: { attempt: last, results: results({ 0: 'deferred' }), cause: 'gave_up' },
        personal: told,
      });
  });
  it('does not count as a delivery to the first recipient', () =>
    message(...past, {
      type: 'quarantine.reject_failed',
      data: { attempt: 1, results: results({ 0: 'accepted' }), cause: 'content_gone' },
    })
      .when({ type: 'RequestRelease', recipients: [0], allowSender: null, reason: null })
      .records({
        ...releaseAsked([0]),
        personal: [{ name: 'reason', value: null, class: 'content' }],
      }));
});

describe('FinishTransfer of a try that is not under way', () => {
  it.each<[string, readonly QuarantineEvent[], QuarantineCommand]>([
    ['before it began', [added, releaseAsked()], finish(1, { 0: 'accepted' })],
    ['twice', [...ALL, deferred(1, { 0: 'deferred' })], finish(1, { 0: 'accepted' })],
    ['after the next one began', [...ALL, started(2, 0, 1, 2)], finish(1, { 0: 'accepted' })],
    ['cut off', [...ALL, begun('release', 'interrupted', 1, 0, 1, 2)], finish(1, {})],
    ['after the end', [...ALL, failed(1, {}, 'no_route')], finish(1, { 0: 'accepted' })],
    ['never asked for', [added], finish(1, {}, 'no_route')],
  ])('is refused: %s', (_, past, command) =>
    message(...past)
      .when(command)
      .refuses('state_conflict'),
  );
});

describe('FinishTransfer of a message that its mail server has let go', () => {
  const gone = (attempt: number, outcomes: Readonly<Record<number, Fared>>): QuarantineCommand => ({
    ...(finish(attempt, outcomes) as Extract<QuarantineCommand, { type: 'FinishTransfer' }>),
    hasLeft: true,
  });
  const onItsWay = (attempt: number, outcomes: Record<number, Fared>, seconds: number) =>
    ({
      type: 'quarantine.release_deferred',
      data: {
        ...{ attempt, results: results(outcomes), retry_at: inSeconds(seconds) },
        has_left: true,
      },
    }) as const satisfies QuarantineEvent;

  it('is looked at again while one is deferred, and says that it has left', () =>
    message(...ALL)
      .when(gone(1, { 0: 'accepted', 1: 'deferred', 2: 'accepted' }))
      .records({
        ...onItsWay(1, { 0: 'accepted', 1: 'deferred', 2: 'accepted' }, RETRY_SECONDS[0]!),
        personal: told,
      }));
  it('is looked at for as long as the mail server tries: nothing is given up', () => {
    const attempt = RETRY_SECONDS.length + 20;
    message(added, releaseAsked([0]), started(attempt, 0))
      .when(gone(attempt, { 0: 'deferred' }))
      .records({
        ...onItsWay(attempt, { 0: 'deferred' }, RETRY_SECONDS.at(-1)!),
        personal: told,
      });
  });
  it('stays gone when the mail server cannot be asked later', () => {
    const attempt = RETRY_SECONDS.length + 1;
    message(
      ...[added, releaseAsked([0]), started(1, 0), onItsWay(1, { 0: 'deferred' }, 5)],
      started(attempt, 0),
    )
      .when(finish(attempt, { 0: 'deferred' }))
      .records({
        ...onItsWay(attempt, { 0: 'deferred' }, RETRY_SECONDS.at(-1)!),
        personal: told,
      });
  });
  it('is undelivered when one was refused and nobody is left', () =>
    message(...ALL)
      .when(gone(1, { 0: 'accepted', 1: 'refused', 2: 'accepted' }))
      .records({
        type: 'quarantine.undelivered',
        data: { attempt: 1, results: results({ 0: 'accepted', 1: 'refused', 2: 'accepted' }) },
        personal: told,
      }));
  it('is released when all have it', () =>
    message(...ALL)
      .when(gone(1, { 0: 'accepted', 1: 'accepted', 2: 'accepted' }))
      .records({
        ...ended('released', 1, { 0: 'accepted', 1: 'accepted', 2: 'accepted' }),
        personal: told,
      }));

  const bounced = (attempt: number, seconds: number) =>
    ({
      type: 'quarantine.reject_deferred',
      data: {
        ...{ attempt, results: results({ 0: 'deferred' }), retry_at: inSeconds(seconds) },
        has_left: true,
      },
    }) as const satisfies QuarantineEvent;
  const bounceBegun = [added, bounceAsked, begun('reject', 'started', 1, 0, 1, 2)];

  it('is looked at again while its bounce is on its way', () =>
    message(...bounceBegun)
      .when(gone(1, { 0: 'deferred' }))
      .records({ ...bounced(1, RETRY_SECONDS[0]!), personal: told }));
  it('stays gone when the mail server cannot be asked of its bounce later', () => {
    const attempt = RETRY_SECONDS.length + 1;
    message(...bounceBegun, bounced(1, 5), begun('reject', 'started', attempt, 0, 1, 2))
      .when(finish(attempt, { 0: 'deferred' }))
      .records({ ...bounced(attempt, RETRY_SECONDS.at(-1)!), personal: told });
  });
  it('stays gone from the first try that said so, whatever later ones say', () => {
    const attempt = RETRY_SECONDS.length + 1;
    message(
      ...[added, releaseAsked([0]), started(1, 0), onItsWay(1, { 0: 'deferred' }, 5)],
      ...[started(2, 0), deferred(2, { 0: 'deferred' }), started(attempt, 0)],
    )
      .when(finish(attempt, { 0: 'refused' }))
      .records({
        type: 'quarantine.undelivered',
        data: { attempt, results: results({ 0: 'refused' }) },
        personal: told,
      });
  });
  it('is no failed delivery when it is its bounce that was refused', () =>
    message(...bounceBegun)
      .when(gone(1, { 0: 'refused' }))
      .records({
        type: 'quarantine.reject_failed',
        data: { attempt: 1, results: results({ 0: 'refused' }), cause: 'refused' },
        personal: told,
      }));
  it('has failed when its bytes are gone, too', () =>
    message(...ALL, onItsWay(1, { 0: 'accepted', 1: 'refused', 2: 'deferred' }, 5), started(2, 2))
      .when({ ...gone(2, { 2: 'refused' }), cause: 'content_gone' } as QuarantineCommand)
      .records({ ...failed(2, { 2: 'refused' }, 'content_gone'), personal: told }));
});

describe('a try', () => {
  const bounce = [added, bounceAsked, begun('reject', 'started', 1, 0, 1, 2)];
  const isUnderWay = (past: readonly QuarantineEvent[]) =>
    past.reduce(quarantinedMessage.evolve, quarantinedMessage.initialState).isStarted;

  it.each<[string, readonly QuarantineEvent[]]>([
    ['rejected', [...bounce, ended('rejected', 1, { 0: 'accepted' })]],
    [
      'reject_failed',
      [
        ...bounce,
        { type: 'quarantine.reject_failed', data: { attempt: 1, results: [], cause: 'no_route' } },
      ],
    ],
    ['released', [...ALL, ended('released', 1, { 0: 'accepted', 1: 'accepted', 2: 'accepted' })]],
    ['release_failed', [...ALL, failed(1, {}, 'no_route')]],
  ])('is under way until its end: %s', (_, past) => {
    expect(isUnderWay(past.slice(0, -1))).toBe(true);
    expect(isUnderWay(past)).toBe(false);
  });
});
