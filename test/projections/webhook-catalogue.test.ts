import { describe, expect, it } from 'vitest';
import { EVENT_TYPES } from '../../src/domain/events.ts';
import { readLine } from '../../src/eventlog/upcast.ts';
import {
  findWebhookType,
  isWebhookType,
  WEBHOOK_TYPES,
  webhookDataOf,
} from '../../src/projections/webhook-catalogue.ts';
import { COMMON_MEMBERS } from '../../src/projections/webhook-payload-schema.ts';
import { readFixtures } from '../support/fixtures.ts';

const NINE = [
  'quarantine.added',
  'quarantine.released',
  'quarantine.discarded',
  'reputation.threshold_crossed',
  'license.changed',
  'cluster.node_joined',
  'cluster.node_left',
  'dkim.rotation_due',
  'cert.expiring',
];
const WITHHELD = /^(webhook|audit|checkpoint|session)\./;

const fixtures = readFixtures();
const eventOf = (name: string) => readLine(fixtures.get(`${name}.v1`)!.line);

describe('the catalogue of event types', () => {
  it('has every type that is written and not withheld, and the nine of the product', () => {
    const written = Object.keys(EVENT_TYPES).filter((type) => !WITHHELD.test(type));
    expect(WEBHOOK_TYPES).toEqual([...new Set([...written, ...NINE])].sort());
  });

  it('says which types have a source in this release', () => {
    const unraised = WEBHOOK_TYPES.filter((type) => findWebhookType(type)?.isRaised === false);
    expect(unraised).toEqual(NINE.filter((type) => !(type in EVENT_TYPES)).sort());
  });

  it.each(['audit.read', 'webhook.created', 'session.started', 'checkpoint.signed', '*', ''])(
    'does not have %s',
    (type) => {
      expect(isWebhookType(type)).toBe(false);
      expect(findWebhookType(type)).toBeNull();
      expect(() => webhookDataOf({ type, data: {} }, null)).toThrow('not for subscribers');
    },
  );

  it.each(WEBHOOK_TYPES)(
    'describes %s in one sentence, and leaves common members alone',
    (type) => {
      const found = findWebhookType(type)!;
      expect(isWebhookType(type)).toBe(true);
      expect(found).toMatchObject({ type, schemaVersion: 1 });
      expect(found.description).toMatch(/^[A-Z][^.]+\.$/);
      expect(type).toMatch(/^[a-z_]+\.[a-z_]+$/);
      const thin = Object.keys(found.data.shape);
      expect(thin.filter((name) => COMMON_MEMBERS.includes(name))).toEqual([]);
      const personal = Object.keys(EVENT_TYPES[type as keyof typeof EVENT_TYPES]?.personal ?? {});
      // Its count, not the addresses.
      const isCount = (name: string) => type === 'quarantine.added' && name === 'recipients';
      expect(thin.filter((name) => personal.includes(name) && !isCount(name))).toEqual([]);
    },
  );
});

describe('the thin members of an event', () => {
  it('are those that the schema names, in its order, whatever else the line has', () => {
    const event = eventOf('mail_domain.created');
    const { settings } = event.data as { settings: object };
    const later = { ...event.data, later: 1, settings: { later: 1, ...settings } };
    const thin = webhookDataOf({ ...event, data: later }, null);
    expect(JSON.stringify(thin)).toBe(JSON.stringify(webhookDataOf(event, null)));
    expect(JSON.stringify(thin)).not.toContain('later');
  });

  it('leave out what an older line does not have', () => {
    const { scope: _, ...data } = eventOf('api_key.created').data;
    expect(webhookDataOf({ type: 'api_key.created', data }, null)).not.toHaveProperty('scope');
  });

  it('count recipients: all of them, or those of one mail domain', () => {
    const event = eventOf('quarantine.added');
    const recipients_of = [
      { mail_domain: '7', count: 2 },
      { mail_domain: '8', count: 5 },
      { mail_domain: null, count: 1 },
    ];
    const shared = { ...event, data: { ...event.data, recipients_of } };
    expect(webhookDataOf(shared, null)['recipients']).toBe(8);
    expect(webhookDataOf(shared, '7')['recipients']).toBe(2);
    expect(webhookDataOf(shared, '8')['recipients']).toBe(5);
    expect(webhookDataOf(shared, '9')['recipients']).toBe(0);
  });

  it.each([
    ['quarantine.released', 'results'],
    ['quarantine.release_failed', 'results'],
    ['quarantine.release_started', 'recipients'],
    ['quarantine.release_requested', 'recipients'],
  ])('of %s hold %s for a subscriber that sees all, and for no other', (type, member) => {
    const event = eventOf(type);
    expect(webhookDataOf(event, null)[member]).toEqual(event.data[member]);
    expect(webhookDataOf(event, '7')).not.toHaveProperty(member);
  });

  it('tell the wish for all recipients from a list that is left out', () => {
    const event = eventOf('quarantine.release_requested');
    const all = { ...event, data: { ...event.data, recipients: null } };
    expect(webhookDataOf(all, null)).toHaveProperty('recipients', null);
    expect(webhookDataOf(all, '7')).not.toHaveProperty('recipients');
  });

  it('have the outcome of a training beside that of the event', () => {
    expect(webhookDataOf(eventOf('quarantine.retrained'), null)).toEqual({
      class: 'ham',
      training_outcome: 'learned',
      status: 200,
    });
  });
});
