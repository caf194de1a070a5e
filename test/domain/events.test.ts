import { describe, expect, it } from 'vitest';
import { API_KEY_TYPES } from '../../src/domain/api-key.ts';
import { ERASING_TYPES, EVENT_TYPES, NAMING_TYPES } from '../../src/domain/events.ts';
import { readFixtures } from '../support/fixtures.ts';

const fixtures = [...readFixtures()];
type Type = keyof typeof EVENT_TYPES;

/** Types whose events need not tell what is personal: a key without addresses, a change of something else. */
const MAY_BE_BARE = new Set(['api_key.created', 'api_key.updated']);

describe('the catalogue of events', () => {
  it.each(fixtures)('%s has the personal members that were sealed', (_, { event }) => {
    // Recipients are one member per mail domain, `recipients.7`, and are declared as one.
    const sealed = event.personal.map((member) => [
      member.name.replace(/^recipients\..*/, 'recipients'),
      member.class,
    ]);
    const { personal } = EVENT_TYPES[event.type as Type];
    const isBare = sealed.length === 0 && MAY_BE_BARE.has(event.type);
    expect(Object.fromEntries(sealed)).toEqual(isBare ? {} : personal);
  });

  it('has as failures what is one whoever was asked', () => {
    const failures = Object.entries(EVENT_TYPES).flatMap(([type, { outcome }]) =>
      outcome === 'failure' ? [type] : [],
    );
    expect(failures.sort()).toEqual([
      'quarantine.reject_failed',
      'quarantine.release_failed',
      'quarantine.retrain_failed',
      'quarantine.undelivered',
      'webhook.backlog',
      'webhook.disabled',
      'webhook.event_parked',
      'webhook.failing',
    ]);
  });

  it('knows which types set names', () => {
    const naming = fixtures.filter(([, { event }]) => (event.names ?? null) !== null);
    const types = new Set(naming.map(([, { event }]) => event.type));
    expect([...NAMING_TYPES].sort()).toEqual([...types].sort());
  });

  it('has what can happen to a key apart from its use', () => {
    const ofKeys = Object.keys(EVENT_TYPES).filter((type) => type.startsWith('api_key.'));
    expect([...API_KEY_TYPES, 'api_key.used', 'api_key.denied'].sort()).toEqual(ofKeys.sort());
  });

  it('erases what identifies somebody with a key and with a webhook alone', () =>
    expect(ERASING_TYPES).toEqual(['api_key.deleted', 'webhook.deleted']));
});
