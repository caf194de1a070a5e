import { createHash, randomBytes } from 'node:crypto';
import canonicalize from 'canonicalize';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { APP_ROLE, openClient } from '../../src/db/pool.ts';
import { type ApiKeyEvent, apiKey } from '../../src/domain/api-key.ts';
import type { Json, PersonalMember } from '../../src/domain/decider.ts';
import { EVENT_TYPES } from '../../src/domain/events.ts';
import {
  type MailDomainEvent,
  type MailDomainSettings,
  mailDomain,
} from '../../src/domain/mail-domain.ts';
import { type QuarantineBulkEvent, quarantineBulk } from '../../src/domain/quarantine-bulk.ts';
import type { QuarantineEvent } from '../../src/domain/quarantine-language.ts';
import { type QuarantineState, quarantinedMessage } from '../../src/domain/quarantined-message.ts';
import { type SenderFilterEvent, senderFilter } from '../../src/domain/sender-filter.ts';
import { type Webhook, type WebhookEvent, webhook } from '../../src/domain/webhook.ts';
import { canonicalJson } from '../../src/eventlog/canonical.ts';
import { LINE_BYTES_MAX, placeLine, prepareEvent } from '../../src/eventlog/line.ts';
import { memoryEventLog } from '../../src/eventlog/memory.ts';
import { digestOf, openDisclosure, splitDisclosures } from '../../src/eventlog/personal.ts';
import { postgresEventLog } from '../../src/eventlog/postgres.ts';
import { readLine } from '../../src/eventlog/upcast.ts';
import { leafHash } from '../../src/integrity/leaf.ts';
import { createDatabase } from '../support/database.ts';
import { anEvent } from '../support/events.ts';
import { type Fixture, fixedRandom, makeAgain, readFixtures } from '../support/fixtures.ts';

const fixtures = readFixtures();
const wanted = Object.entries(EVENT_TYPES).map(
  ([type, { schemaVersion }]) => `${type}.v${schemaVersion}`,
);
const listsOf = ({ disclosures }: Fixture): string[] =>
  Object.values(disclosures).flatMap((list) => splitDisclosures(list ?? ''));

/** What a line says was sealed, wherever in it. */
const digestsIn = (line: string): string[] =>
  [...line.matchAll(/"_sd":\[([^\]]*)\]/g)].flatMap(([, list = '']) => splitDisclosures(list));

// A fixture is a line as some installation has stored, hashed and perhaps signed it. It is never edited and never
// removed, whatever fails here: what must change is the code, or the type gets a new schema version and with it a
// new fixture and an upcaster.
describe('the committed line of every event type, as it was released', () => {
  it('has a fixture (add one for a new type or version; never edit one that is there)', () => {
    expect(wanted.filter((name) => !fixtures.has(name))).toEqual([]);
  });

  it.each([...fixtures])('%s is still written byte for byte', (_name, fixture) => {
    const { line, disclosures } = makeAgain(fixture);
    expect(line).toBe(fixture.line);
    expect(disclosures).toEqual(fixture.disclosures);
    expect(leafHash(line).toString('hex')).toBe(fixture.leafHash);
  });

  it.each([...fixtures])('%s is canonical JSON (RFC 8785)', (_name, { line }) => {
    expect(canonicalize(JSON.parse(line))).toBe(line);
  });

  it.each([...fixtures])('%s discloses exactly what its digests commit to', (_name, fixture) => {
    const found = listsOf(fixture).map((text) =>
      createHash('sha256').update(text).digest('base64url'),
    );
    expect(found.sort()).toEqual(digestsIn(fixture.line).sort());
    for (const list of fixture.line.matchAll(/"_sd":\[([^\]]*)\]/g)) {
      const digests = splitDisclosures(list[1] ?? '');
      expect(digests).toEqual([...digests].sort());
    }
  });

  it.each([...fixtures])('%s holds no personal value', (_name, { event, line }) => {
    const { ip, userAgent } = event.meta.source;
    const values = [...event.personal.map(({ value }) => value), ip, userAgent];
    for (const value of [...values, ...Object.values(event.names ?? {})].flat()) {
      if (typeof value === 'string') expect(line).not.toContain(value);
    }
  });

  it.each([...fixtures])('%s can still be read', (name, fixture) => {
    const event = readLine(fixture.line);
    const version = EVENT_TYPES[event.type as keyof typeof EVENT_TYPES].schemaVersion;
    expect(event.schema_version).toBe(version);
    expect(name.startsWith(`${event.type}.v`)).toBe(true);
    if (event.type in KEY_STATUS) {
      const { status } = apiKey.evolve(apiKey.initialState, event as unknown as ApiKeyEvent);
      expect(status).toBe(KEY_STATUS[event.type]);
    } else if (event.type.startsWith('mail_domain.')) {
      const state = mailDomain.evolve(
        { id: 'x', settings: {} as MailDomainSettings },
        event as unknown as MailDomainEvent,
      );
      expect(state.id).toBe(event.type === 'mail_domain.deleted' ? null : '7');
    } else if (event.type.startsWith('sender_filter.')) {
      const { status } = senderFilter.evolve(
        senderFilter.initialState,
        event as unknown as SenderFilterEvent,
      );
      expect(status).toBe(event.type === 'sender_filter.created' ? 'active' : 'ended');
    } else if (event.type.startsWith('webhook.')) {
      const { status } = webhook.evolve(webhook.initialState, event as unknown as WebhookEvent);
      expect(status).toBe(WEBHOOK_STATUS[event.type] ?? 'absent');
    } else if (event.type.startsWith('quarantine.bulk_')) {
      const { status } = quarantineBulk.evolve(
        quarantineBulk.initialState,
        event as unknown as QuarantineBulkEvent,
      );
      expect(`quarantine.bulk_${BULK_TYPE[status]}`).toBe(event.type);
    } else if (event.type.startsWith('quarantine.')) {
      const before = { ...quarantinedMessage.initialState, recipients: 3 };
      const { state } = quarantinedMessage.evolve(before, event as unknown as QuarantineEvent);
      expect(state).toBe(MESSAGE_STATE[event.type] ?? 'absent');
    }
  });

  /** Where an event leads; the others leave a subscription where it is. */
  const WEBHOOK_STATUS: Readonly<Record<string, Webhook['status']>> = {
    'webhook.created': 'active',
    'webhook.paused': 'paused',
    'webhook.resumed': 'active',
    'webhook.enabled': 'active',
    'webhook.disabled': 'disabled',
    'webhook.deleted': 'deleted',
  };
  const BULK_TYPE: Readonly<Record<string, string>> = {
    running: 'requested',
    cancelled: 'cancelled',
    ended: 'ended',
  };
  /** Where an event leads; the others leave a message where it is. */
  const MESSAGE_STATE: Readonly<Record<string, QuarantineState>> = {
    'quarantine.added': 'held',
    'quarantine.release_requested': 'release_requested',
    'quarantine.release_failed': 'release_failed',
    'quarantine.partly_released': 'held',
    'quarantine.released': 'released',
    'quarantine.undelivered': 'undelivered',
    'quarantine.discard_requested': 'discard_requested',
    'quarantine.discarded': 'discarded',
    'quarantine.reject_requested': 'reject_requested',
    'quarantine.reject_failed': 'held',
    'quarantine.rejected': 'rejected',
    'quarantine.expired': 'expired',
    'quarantine.vanished': 'vanished',
  };

  const KEY_STATUS: Readonly<Record<string, string>> = {
    'api_key.created': 'active',
    'api_key.updated': 'absent',
    'api_key.rotated': 'rotated',
    'api_key.revoked': 'revoked',
    'api_key.expired': 'expired',
    'api_key.deleted': 'deleted',
  };
});

describe('the line as each adapter stores it', () => {
  const events = [...fixtures.values()].map(({ event }) => event);

  it('is the one of placeLine in PostgreSQL, for every type', async () => {
    const database = await createDatabase();
    const log = await postgresEventLog({
      pool: database.pool,
      exportPool: database.pool,
      connect: () => openClient({ url: database.url, role: APP_ROLE }),
      random: fixedRandom('adapter'),
    });
    try {
      const random = fixedRandom('adapter');
      for (const event of events) {
        const outcome = await log.append({
          stream: `s-${event.eventId}`,
          expected: 'none',
          events: [event],
        });
        if (outcome.kind !== 'appended') throw new Error(outcome.kind);
        const [stored] = await log.readStream(`s-${event.eventId}`);
        expect(stored?.line).toBe(
          placeLine(prepareEvent(`s-${event.eventId}`, event, random), outcome),
        );
      }
    } finally {
      await log.close();
      await database.drop();
    }
  });

  it('is the one of placeLine in memory, for every type', async () => {
    const log = memoryEventLog({ random: fixedRandom('adapter') });
    const random = fixedRandom('adapter');
    for (const event of events) {
      const outcome = await log.append({
        stream: `s-${event.eventId}`,
        expected: 'none',
        events: [event],
      });
      if (outcome.kind !== 'appended') throw new Error(outcome.kind);
      const [stored] = await log.readStream(`s-${event.eventId}`);
      expect(stored?.line).toBe(
        placeLine(prepareEvent(`s-${event.eventId}`, event, random), outcome),
      );
    }
  });
});

describe('published vectors', () => {
  // RFC 9901 (SD-JWT), sections 4.2.1, 4.2.3 and the example of section 5.
  it.each([
    [
      'WyI2cU1RdlJMNWhhaiIsICJmYW1pbHlfbmFtZSIsICJNw7ZiaXVzIl0',
      'uutlBuYeMDyjLLTpf6Jxi7yNkEF35jdyWMn9U7b_RYY',
      'family_name',
      'Möbius',
    ],
    [
      'WyIyR0xDNDJzS1F2ZUNmR2ZyeU5STjl3IiwgImdpdmVuX25hbWUiLCAiSm9obiJd',
      'jsu9yVulwQQlhFlM_3JlzMaSFzglhQG0DpfayQwLUK4',
      'given_name',
      'John',
    ],
    [
      'WyJlbHVWNU9nM2dTTklJOEVZbnN4QV9BIiwgImZhbWlseV9uYW1lIiwgIkRvZSJd',
      'TGf4oLbgwd5JQaHyKVQZU9UdGE0w5rtDsrZzfUaomLo',
      'family_name',
      'Doe',
    ],
    [
      'WyI2SWo3dE0tYTVpVlBHYm9TNXRtdlZBIiwgImVtYWlsIiwgImpvaG5kb2VAZXhhbXBsZS5jb20iXQ',
      'JzYjH4svliH0R3PyEMfeZu6Jt69u5qehZo7F7EPYlSE',
      'email',
      'johndoe@example.com',
    ],
    [
      'WyJRZ19PNjR6cUF4ZTQxMmExMDhpcm9BIiwgInBob25lX251bWJlcl92ZXJpZmllZCIsIHRydWVd',
      'XQ_3kPKt1XyX7KANkqVR6yZ2Va5NrPIvPYbyMvRKBMM',
      'phone_number_verified',
      true,
    ],
    [
      'WyJHMDJOU3JRZmpGWFE3SW8wOXN5YWpBIiwgInVwZGF0ZWRfYXQiLCAxNTcwMDAwMDAwXQ',
      'CrQe7S5kqBAHt-nMYXgc6bdt2SH5aTY1sU_M-PgkjPI',
      'updated_at',
      1_570_000_000,
    ],
  ])('RFC 9901: the digest of %s', (disclosure, digest, name, value) => {
    expect(digestOf(disclosure)).toBe(digest);
    expect(openDisclosure(disclosure)).toEqual({ name, value });
  });

  it('RFC 8785 section 3.2: literals, numbers and strings', () => {
    const input =
      '{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],' +
      '"string":"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/","literals":[null,true,false]}';
    expect(canonicalJson(JSON.parse(input))).toBe(
      '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],' +
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
    );
  });

  it('RFC 8785 section 3.2.3: members by UTF-16 code units', () => {
    const input = {
      '\u20ac': 'Euro Sign',
      '\r': 'Carriage Return',
      '\ufb33': 'Hebrew Letter Dalet With Dagesh',
      '1': 'One',
      '\ud83d\ude00': 'Emoji: Grinning Face',
      '\u0080': 'Control',
      '\u00f6': 'Latin Small Letter O With Diaeresis',
    };
    expect(Object.values(JSON.parse(canonicalJson(input)) as object)).toEqual([
      // A number-like member is listed first by every JavaScript object; it is second in the text.
      'One',
      'Carriage Return',
      'Control',
      'Latin Small Letter O With Diaeresis',
      'Euro Sign',
      'Emoji: Grinning Face',
      'Hebrew Letter Dalet With Dagesh',
    ]);
    expect(canonicalJson(input).indexOf('"\\r"')).toBeLessThan(canonicalJson(input).indexOf('"1"'));
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY, '\ud800', ['a\udfff']])('refuses %j', (value) => {
    expect(() => canonicalJson(value)).toThrow();
  });
});

describe('any event', () => {
  const place = { position: 12n, revision: 3n, recordedAt: '2026-05-01T07:42:13.004211Z' };
  const json = fc.jsonValue({ stringUnit: 'grapheme', maxDepth: 3 });
  // `_sd` is the line's own member; nothing the domain writes is called so.
  const name = fc.string({ unit: 'grapheme', maxLength: 12 }).filter((text) => text !== '_sd');
  const data = fc.dictionary(name, json, { maxKeys: 6 });
  /** Long and improbable, so that it cannot stand in a line by chance. */
  const secret = fc
    .string({ unit: 'grapheme', maxLength: 20 })
    .map((text) => `${text}§${randomBytes(9).toString('hex')}`);
  const personal = fc.array(
    fc.record({
      name,
      value: fc.oneof(secret, fc.array(secret, { minLength: 1, maxLength: 3 })),
      class: fc.constantFrom('identity', 'network', 'content'),
    }),
    { maxLength: 4 },
  ) as fc.Arbitrary<PersonalMember[]>;

  const lineOf = (
    given: Record<string, Json>,
    members: PersonalMember[],
    random = randomBytes as never,
  ) => {
    const event = prepareEvent('s-1', anEvent({ data: given, personal: members }), random);
    const lists = [event.identity, event.network, event.content];
    return {
      line: placeLine(event, place),
      disclosures: lists.flatMap((list) => splitDisclosures(list ?? '')),
    };
  };
  const isFitting = (given: unknown) =>
    Buffer.byteLength(JSON.stringify(given)) < LINE_BYTES_MAX / 2;

  it('gives a canonical line that parses back to the same values', () => {
    fc.assert(
      fc.property(data.filter(isFitting), personal, (given, members) => {
        const { line } = lineOf(given as Record<string, Json>, members);
        const parsed = readLine(line);
        const { _sd, ...rest } = parsed.data;
        expect(canonicalJson(rest)).toBe(canonicalJson(given as Json));
        expect(canonicalize(JSON.parse(line))).toBe(line);
        expect(parsed).toMatchObject({
          position: '12',
          revision: '3',
          recorded_at: place.recordedAt,
        });
        expect(_sd === undefined ? 0 : (_sd as string[]).length).toBe(members.length);
      }),
      { numRuns: 500 },
    );
  });

  it('never holds a personal value, and discloses each against its digest', () => {
    fc.assert(
      fc.property(data.filter(isFitting), personal, (given, members) => {
        const { line, disclosures } = lineOf(given as Record<string, Json>, members);
        for (const { value } of members) {
          for (const text of [value].flat() as string[]) {
            expect(line).not.toContain(text);
            expect(line).not.toContain(text.split('§').at(-1));
          }
        }
        const opened = disclosures.map((text) => openDisclosure(text));
        const expected = members.map((member) => ({ name: member.name, value: member.value }));
        for (const member of expected) expect(opened).toContainEqual(member);
        expect(disclosures.map(digestOf).sort()).toEqual(digestsIn(line).sort());
      }),
      { numRuns: 300 },
    );
  });

  it('salts: equal values have different digests', () => {
    const twice = { name: 'reason', value: 'equal', class: 'content' } as const;
    const { line } = lineOf({}, [twice, twice]);
    const digests = digestsIn(line);
    expect(new Set(digests).size).toBe(digests.length);
  });

  it('shows tampering with any byte of a disclosure', () => {
    fc.assert(
      fc.property(
        personal.filter((list) => list.length > 0),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (members, at, flip) => {
          const { line, disclosures } = lineOf({}, members);
          const digests = digestsIn(line);
          for (const disclosure of disclosures) {
            const bytes = Buffer.from(disclosure, 'ascii');
            const index = at % bytes.length;
            bytes[index] = (bytes[index] ?? 0) ^ flip;
            const tampered = bytes.toString('latin1');
            expect(digests).toContain(digestOf(disclosure));
            expect(digests).not.toContain(digestOf(tampered));
            expect(digests).not.toContain(
              digestOf(disclosure.slice(0, index) + disclosure.slice(index + 1)),
            );
          }
        },
      ),
      { numRuns: 300 },
    );
  });

  it('shows it for every single byte of one disclosure', () => {
    const { line, disclosures } = lineOf({}, [
      { name: 'reason', value: 'Möller', class: 'content' },
    ]);
    const digests = digestsIn(line);
    const [disclosure = ''] = disclosures;
    for (let index = 0; index < disclosure.length; index += 1) {
      for (let flip = 1; flip < 256; flip += 1) {
        const bytes = Buffer.from(disclosure, 'ascii');
        bytes[index] = (bytes[index] ?? 0) ^ flip;
        if (digests.includes(digestOf(bytes.toString('latin1'))))
          throw new Error(`byte ${index} ^ ${flip}`);
      }
    }
  });

  it('shows a character beyond a byte, which would decode to the same bytes', () => {
    const [disclosure = ''] = lineOf({}, [{ name: 'a', value: 'b', class: 'content' }]).disclosures;
    // U+0157 ends in the byte of W, with which every disclosure begins.
    const tampered = `\u0157${disclosure.slice(1)}`;
    expect(disclosure[0]).toBe('W');
    expect(digestOf(tampered)).not.toBe(digestOf(disclosure));
  });

  it('is refused when its line could be one byte too long, and taken at the bound', () => {
    const bytesOf = (length: number) => {
      const event = prepareEvent(
        's-1',
        anEvent({ data: { text: 'x'.repeat(length) } }),
        randomBytes,
      );
      const longest = {
        position: 9_223_372_036_854_775_807n,
        revision: 9_223_372_036_854_775_807n,
        recordedAt: place.recordedAt,
      };
      return Buffer.byteLength(placeLine(event, longest));
    };
    const most = 60_000 + LINE_BYTES_MAX - bytesOf(60_000);
    expect(bytesOf(most)).toBe(LINE_BYTES_MAX);
    expect(() => bytesOf(most + 1)).toThrow('65535');
  });
});
