import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Json } from '../../src/domain/decider.ts';
import { isWebhookType, WEBHOOK_TYPES } from '../../src/projections/webhook-catalogue.ts';
import { prepareEvent, renderPayload } from '../../src/projections/webhook-payload.ts';
import { payloadJsonSchema, payloadSchema } from '../../src/projections/webhook-payload-schema.ts';
import { type Fixture, readFixtures } from '../support/fixtures.ts';

/** What was sent once is sent for ever: `UPDATE_GOLDEN=1` writes the files of new types. */
const GOLDEN = fileURLToPath(new URL('./webhook-golden/', import.meta.url));
const isUpdate = process.env['UPDATE_GOLDEN'] === '1';

// The validator of JSON Schema 2020-12 that another tool of the tests brings with it.
const require = createRequire(import.meta.url);
const { default: Ajv } = createRequire(require.resolve('openapi-to-postmanv2'))('ajv/dist/2020');
const ajv = new Ajv({ strict: true, allErrors: true, validateFormats: false });

const FULL = { sequence: 48_213, epoch: 3, mailDomain: null };
const NARROWED = { sequence: null, epoch: 1, mailDomain: '7' };
const FOREIGN = '80818283';

const fixtures = [...readFixtures()].filter(([, { event }]) => isWebhookType(event.type));
const fixtureOf = (type: string) => fixtures.find(([, { event }]) => event.type === type)![1];
const prepare = ({ place, line }: Pick<Fixture, 'place' | 'line'>) =>
  prepareEvent({ position: BigInt(place.position), line });
const validators = new Map<string, (value: unknown) => boolean>();
beforeAll(() => {
  for (const type of WEBHOOK_TYPES) validators.set(type, ajv.compile(payloadJsonSchema(type)));
});

/** A line as it would be with other data. */
function changed(type: string, change: (line: any) => void) {
  const { place, line } = fixtureOf(type);
  const parsed = JSON.parse(line);
  change(parsed);
  return prepare({ place, line: JSON.stringify(parsed) });
}

function expectValid(type: string, payload: unknown) {
  expect(payloadSchema(type).safeParse(payload).error).toBeUndefined();
  const validate = validators.get(type)!;
  expect(validate(payload) ? [] : (validate as unknown as { errors: unknown }).errors).toEqual([]);
}

const stringsOf = (value: Json | undefined): string[] => {
  if (typeof value === 'string') return [value];
  if (typeof value !== 'object' || value === null) return [];
  return Object.values(value).flatMap(stringsOf);
};
const personalOf = ({ event }: Fixture): string[] =>
  [
    ...event.personal.flatMap(({ value }) => stringsOf(value)),
    ...Object.values(event.names ?? {}),
    event.meta.source.ip,
    event.meta.source.userAgent,
  ].filter((text) => text !== null && text !== undefined);

describe('the payload of a committed line', () => {
  it.each(fixtures)('%s is the bytes that were sent first', (name, fixture) => {
    const prepared = prepare(fixture);
    const made = {
      full: renderPayload(prepared, FULL),
      narrowed: renderPayload(prepared, NARROWED),
    };
    const file = `${GOLDEN}${name}.json`;
    if (isUpdate) {
      mkdirSync(GOLDEN, { recursive: true });
      writeFileSync(file, `${JSON.stringify(made, null, 2)}\n`);
    }
    expect(made).toEqual(JSON.parse(readFileSync(file, 'utf8')));
  });

  it('has a golden file for each fixture, and no other', () => {
    expect(readdirSync(GOLDEN).sort()).toEqual(fixtures.map(([name]) => `${name}.json`).sort());
  });

  it.each(fixtures)('%s fits its schema, for either subscriber', (_, fixture) => {
    const { type } = fixture.event;
    for (const place of [FULL, NARROWED]) {
      const text = renderPayload(prepare(fixture), place);
      expectValid(type, JSON.parse(text));
      expect(Buffer.byteLength(text)).toBeLessThan(20_000);
    }
  });

  it.each(fixtures)('%s holds no personal value', (_, fixture) => {
    for (const place of [FULL, NARROWED]) {
      const text = renderPayload(prepare(fixture), place);
      expect(text).not.toContain('_sd');
      for (const value of personalOf(fixture)) {
        expect(text).not.toContain(value);
        expect(text).not.toContain(JSON.stringify(value).slice(1, -1));
      }
    }
  });

  it('is looked through for values that are there to be found', () => {
    const all = fixtures.flatMap(([, fixture]) => personalOf(fixture));
    expect(new Set(all).size).toBeGreaterThan(30);
    expect(all).toContain('ann@xn--mller-kva.example');
    expect(all).toContain('192.0.2.7');
  });

  it.each(fixtures)('%s names no other mail domain to a narrowed subscriber', (_, { event }) => {
    const shared = changed(event.type, (line) => {
      line.mail_domains.push(FOREIGN);
      line.data.recipients_of?.push({ mail_domain: FOREIGN, count: 5 });
    });
    const narrowed = renderPayload(shared, NARROWED);
    expect(narrowed).not.toContain(FOREIGN);
    expect(JSON.parse(narrowed).data.mail_domains).toEqual(['7']);
    expect(JSON.parse(renderPayload(shared, FULL)).data.mail_domains).toEqual(['7', FOREIGN]);
  });

  it('has its members in the order of the contract', () => {
    const fixture = fixtureOf('quarantine.released');
    const text = renderPayload(prepare(fixture), FULL);
    const payload = JSON.parse(text);
    expect(JSON.stringify(payload)).toBe(text);
    expect(Object.keys(payload)).toEqual(
      'type timestamp id schema sequence epoch log key data'.split(' '),
    );
    expect(Object.keys(payload.data)).toEqual(
      'actor resource mail_domains outcome attempt results'.split(' '),
    );
    expect(payload).toMatchObject({
      type: 'quarantine.released',
      timestamp: fixture.place.recordedAt,
      id: fixture.event.eventId,
      schema: 'quarantine.released/1',
      sequence: 48_213,
      epoch: 3,
      key: fixture.stream,
      log: {
        position: fixture.place.position,
        stream: fixture.stream,
        revision: fixture.place.revision,
        hash: `sha256:${fixture.leafHash}`,
      },
    });
  });

  it('is the same whoever was served before, and on another node', () => {
    const fixture = fixtureOf('quarantine.added');
    const [one, other] = [prepare(fixture), prepare(fixture)];
    const narrowed = renderPayload(other, NARROWED);
    expect(renderPayload(one, FULL)).toBe(renderPayload(other, FULL));
    expect(renderPayload(one, NARROWED)).toBe(narrowed);
    expect(renderPayload(other, NARROWED)).toBe(narrowed);
  });

  it('has no sequence for what was recorded before the subscription', () => {
    const prepared = prepare(fixtureOf('api_key.created'));
    expect(renderPayload(prepared, NARROWED)).toContain('"sequence":null,"epoch":1,"log":');
    expect(renderPayload(prepared, { ...NARROWED, sequence: 0 })).toContain('"sequence":0,');
  });

  it('is refused to a subscriber of another mail domain', () => {
    const prepared = prepare(fixtureOf('api_key.created'));
    expect(() => renderPayload(prepared, { ...NARROWED, mailDomain: '8' })).toThrow(
      'is not of mail domain 8',
    );
  });

  it('is not made of events that are not for subscribers', () => {
    const [, { place, line }] = [...readFixtures()].find(([name]) => name === 'audit.read.v1')!;
    expect(() => prepare({ place, line })).toThrow('audit.read is not for subscribers');
    expect(() => payloadSchema('audit.read')).toThrow('audit.read is not for subscribers');
  });

  it.each<[string, string, (data: any) => void]>([
    [
      'symbols',
      'quarantine.added',
      (data) => {
        data.symbols = Array.from({ length: 200 }, (_, n) => `S${n}`.padEnd(128, '_'));
      },
    ],
    [
      'results',
      'quarantine.released',
      (data) => {
        data.results = Array.from({ length: 300 }, (_, recipient) => ({
          recipient,
          outcome: 'accepted',
          code: 250,
        }));
      },
    ],
    [
      'recipients',
      'quarantine.release_started',
      (data) => {
        data.recipients = Array.from({ length: 1_000 }, (_, recipient) => recipient);
      },
    ],
  ])('stays below 20 kB with as many %s as there can be', (member, type, change) => {
    const text = renderPayload(
      changed(type, ({ data }) => change(data)),
      FULL,
    );
    expect(Buffer.byteLength(text)).toBeLessThan(20_000);
    expect(Buffer.byteLength(text)).toBeGreaterThan(4_000);
    expectValid(type, JSON.parse(text));
    expect(JSON.parse(text).data[member].length).toBeGreaterThanOrEqual(100);
  });

  it('leaves out results that are too many to be sent', () => {
    const prepared = changed('quarantine.released', ({ data }) => {
      data.results = Array.from({ length: 301 }, () => data.results[0]);
    });
    const payload = JSON.parse(renderPayload(prepared, FULL));
    expect(payload.data).not.toHaveProperty('results');
    expectValid('quarantine.released', payload);
  });
});

describe('the schema of a payload', () => {
  it.each(WEBHOOK_TYPES)('of %s takes its own example, and nothing beside', (type) => {
    const schema = payloadJsonSchema(type) as any;
    expect(schema.$schema).toBe('https://json-schema.org/draft/2020-12/schema');
    expect(schema.$id).toBe(`urn:mailguard:webhook:${type}:1`);
    expect(schema).toMatchObject({ title: type, additionalProperties: false });
    expect(schema.description).toMatch(/^[A-Z].*\.$/);
    expect(schema.properties.data.additionalProperties).toBe(false);
    const [example] = schema.examples;
    expectValid(type, example);
    const validate = validators.get(type)!;
    for (const bad of [
      { ...example, more: 1 },
      { ...example, data: { ...example.data, more: 1 } },
      { ...example, log: { ...example.log, more: 1 } },
      { ...example, key: undefined },
      { ...example, type: 'quarantine.other' },
    ].map((value) => JSON.parse(JSON.stringify(value)))) {
      expect(validate(bad)).toBe(false);
      expect(payloadSchema(type).safeParse(bad).success).toBe(false);
    }
  });
});
