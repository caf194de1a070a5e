import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { renderEvents, renderText } from '../../src/api/audit-page.ts';
import type { Json, PersonalMember, ResourceRef, SubjectNames } from '../../src/domain/decider.ts';
import { EVENT_TYPES } from '../../src/domain/events.ts';
import type { EventLog, EventToAppend, StoredEvent } from '../../src/eventlog/eventlog.ts';
import { type PreparedEvent, placeLine, prepareEvent } from '../../src/eventlog/line.ts';
import * as upcast from '../../src/eventlog/upcast.ts';
import { glanceSubjects, shareTexts, spliceLine } from '../../src/projections/audit-line-text.ts';
import { NAMED } from '../../src/projections/audit-lines.ts';
import { anEvent, meta } from '../support/events.ts';
import { readFixtures } from '../support/fixtures.ts';

type Names = ReadonlyMap<string, SubjectNames>;
type Classes = Readonly<Record<'identity' | 'network' | 'content' | 'names', boolean>>;

const KEPT: Classes = { identity: true, network: true, content: true, names: true };
const PLACE = { position: 12n, revision: 3n, recordedAt: '2026-05-01T07:42:13.004211Z' };
const NAMES: Names = new Map<string, SubjectNames>([
  ['api_key:1', { name: 'SIEM "Köln" 🔑 \u2028', key_prefix: 'nmg_0123' }],
  ['operator:1', { name: 'Olga\\' }],
  ['mail_domain:7', { name: 'example.com' }],
  ['mail_domain:8', { name: 'xn--mller-kva.example' }],
]);

/** As the log stores it, with the disclosures of the classes that are still kept. */
function stored(event: EventToAppend, kept: Classes = KEPT): StoredEvent {
  const prepared = prepareEvent('s-1', event, randomBytes as never);
  const line = placeLine(prepared, PLACE);
  return { position: PLACE.position, line, disclosures: listOf(prepared, kept) };
}

const listOf = (event: PreparedEvent, kept: Classes): string =>
  [
    kept.identity ? event.identity : null,
    kept.network ? event.network : null,
    kept.content ? event.content : null,
    kept.names ? (event.names?.disclosures ?? null) : null,
  ]
    .filter((list) => list !== null)
    .join(',');

const logOf = (names: Names) =>
  ({
    readNames: async (asked) => new Map([...names].filter(([subject]) => asked.includes(subject))),
  }) as Pick<EventLog, 'readNames'> as EventLog;

function splice(event: StoredEvent, names: Names = NAMES): string | null {
  const asked = glanceSubjects([event]);
  const found = new Map([...names].filter(([subject]) => asked.has(subject)));
  return spliceLine(event, shareTexts(asked, found));
}

/** Lines as text, and as the objects that JSON pages show. */
async function renderBoth(events: readonly StoredEvent[], names: Names, viewer = null as never) {
  const text = (await renderText(logOf(names), { events, lines: null }, viewer)).toString();
  const lines = await renderEvents(logOf(names), events, viewer);
  return {
    text,
    parsed: text
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line)),
    lines,
  };
}

const asJson = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

/** Text that would mislead a reader who searches for the bounds of members. */
const TRAPS = [
  '},"event_id":"',
  '"event_id":"x","mail_domains":["7"]',
  '"data":{',
  ',"v":1}',
  '"_sd":["x"]',
  '\\',
  '\\"',
  '"',
  '\u2028\n',
];
const TOP = [
  'event_id',
  'data',
  'mail_domains',
  'resource',
  'type',
  'v',
  'source',
  'A',
  'position',
];
const text = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 12 }),
  fc.constantFrom(...TRAPS),
  fc
    .tuple(fc.constantFrom(...TRAPS), fc.string({ unit: 'grapheme', maxLength: 5 }))
    .map((two) => two.join('')),
);
/** A name as of digests, but once in a while. */
const PLENTY = ['_sd', ...Array.from({ length: 30 }, (_, n) => `m${n}`)];
const json = fc.letrec<{ value: Json }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4, depthSize: 'small' },
    text,
    fc.constantFrom(null, true, 0, -0, 1e21, 1.5e-9),
    fc.array(tie('value'), { maxLength: 3 }),
    fc.dictionary(
      fc.oneof(text, fc.constantFrom(...TOP, ...PLENTY, '__proto__', '1')),
      tie('value'),
      {
        maxKeys: 4,
      },
    ),
  ),
})).value;
const data = fc.dictionary(fc.oneof(text, fc.constantFrom(...TOP, '1')), json, { maxKeys: 5 });

const described = Object.entries(EVENT_TYPES) as [string, (typeof EVENT_TYPES)['api_key.used']][];
/** A type with its personal members, or one that this release does not know. */
const typed = fc.oneof(
  fc.constantFrom(...described).map(([type, { personal }]) => ({ type, personal })),
  fc
    .dictionary(
      fc.constantFrom('subject', 'ip', 'user_agent', 'note', 'é"'),
      fc.constantFrom('identity', 'network', 'content'),
    )
    .map((personal) => ({ type: 'message.held', personal })),
);
/** Nearly always the first, so that most of the lines stay ordinary. */
const mostly = <Value>(usual: fc.Arbitrary<Value>, odd: fc.Arbitrary<Value>) =>
  fc.oneof({ weight: 12, arbitrary: usual }, { weight: 1, arbitrary: odd });
const reference = mostly(
  fc.constantFrom(
    ...[...NAMES.keys(), 'system:ü', 'message::', 'node:n1'].map((subject) => {
      const at = subject.indexOf(':');
      return { type: subject.slice(0, at), id: subject.slice(at + 1) };
    }),
  ),
  fc.record({
    type: fc.constantFrom('api_key', 'operator', 'mail_domain', 'message'),
    id: fc.constantFrom('1', '404', 'unknown', 'a"b'),
  }),
);
const event = typed.chain(({ type, personal }) =>
  fc
    .record({
      data,
      values: fc.array(json, { minLength: 8, maxLength: 8 }),
      resource: reference,
      actor: reference,
      mailDomains: fc.uniqueArray(fc.constantFrom('7', '8', '9'), { maxLength: 3 }),
      names: mostly<SubjectNames | null>(
        fc.constant(null),
        fc.record({ name: text, key_prefix: text }, { requiredKeys: ['name'] }),
      ),
      requestId: mostly(fc.option(fc.constant('req-1')), text),
      ip: fc.option(fc.constantFrom('192.0.2.7', '2001:db8::1')),
      userAgent: fc.option(text),
    })
    .map(({ values, actor, requestId, ip, userAgent, ...given }) => {
      const members = Object.entries(personal).map(
        ([name, cls], index) =>
          ({ name, value: values[index] ?? null, class: cls }) as PersonalMember,
      );
      const source = { node: 'node-1', ip, userAgent };
      return anEvent({
        ...given,
        type,
        data: given.data as Record<string, Json>,
        personal: members,
        meta: { ...meta, actor, requestId, source } as EventToAppend['meta'],
      });
    }),
);
const classes = fc.oneof(
  { weight: 6, arbitrary: fc.constant(KEPT) },
  fc.record({
    identity: fc.boolean(),
    network: fc.boolean(),
    content: fc.boolean(),
    names: fc.boolean(),
  }),
);
const names = fc
  .subarray([...NAMES], { minLength: 0 })
  .chain((some) => fc.constantFrom(NAMES, new Map(some)));
const viewer = fc.oneof(
  { weight: 4, arbitrary: fc.constant(null) },
  fc.boolean().map((knows) => ({ knowsActor: () => knows })),
);

afterEach(() => vi.restoreAllMocks());

describe('a page of lines as text', () => {
  it('is the JSON of the page, whatever is in its events', async () => {
    let spliced = 0;
    const page = fc.array(fc.tuple(event, classes), { maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(page, names, viewer, async (given, known, reader) => {
        const events = given.map(([one, kept]) => stored(one, kept));
        const { parsed, lines } = await renderBoth(events, known, reader as never);
        expect(parsed).toEqual(asJson(lines));
        spliced += events.filter((one) => splice(one, known) !== null).length;
      }),
      { numRuns: 1_000 },
    );
    expect(spliced).toBeGreaterThan(200);
  });

  it.each([...readFixtures()])('is the JSON of %s, byte for byte', async (_name, fixture) => {
    const disclosures = Object.values(fixture.disclosures).filter((list) => list !== null);
    const event = { position: 1n, line: fixture.line, disclosures: disclosures.join(',') };
    const { text: bytes, lines } = await renderBoth([event], NAMES);
    expect(bytes).toBe(`${JSON.stringify(lines[0])}\n`);
    // Where a name is set its digest is in the resource; where the subject has no name it was erased.
    const { resource, meta, names: set } = fixture.event;
    expect(splice(event) !== null).toBe(set === null && isKnown(resource) && isKnown(meta.actor));
  });

  const isKnown = ({ type, id }: ResourceRef) => !NAMED.has(type) || NAMES.has(`${type}:${id}`);
});

describe('an ordinary line', () => {
  const expectSpliced = (one: EventToAppend) => {
    const event = stored(one);
    const spliced = splice(event);
    expect(spliced).not.toBeNull();
    return renderBoth([event], NAMES).then(({ lines }) =>
      expect(spliced).toBe(JSON.stringify(lines[0])),
    );
  };

  it('is spliced', () => expectSpliced(anEvent()));
  it('is spliced without a source', () =>
    expectSpliced(
      anEvent({ meta: { ...meta, source: { node: 'n', ip: null, userAgent: null } } }),
    ));
  it('is spliced with names and with personal members', () =>
    expectSpliced(
      anEvent({
        resource: { type: 'operator', id: '1' },
        mailDomains: ['7', '404'],
        data: {},
        personal: [{ name: 'reason', value: ['"', '🔑'], class: 'content' }],
      }),
    ));
  it.each(TRAPS)('is spliced with %j in its data', (trap) =>
    expectSpliced(anEvent({ data: { a: trap, b: [{ c: trap }], z: trap } })),
  );
  it.each(TOP)('is spliced with a member of its data named %s', (name) =>
    expectSpliced(anEvent({ data: { a: { [name]: 'x' }, [name]: { event_id: 'y' } } })),
  );
});

describe('a line is left to be parsed', () => {
  const sealed = [{ name: 'reason', value: 'x', class: 'content' }] as const;
  const erased = { ...KEPT, network: false };

  it.each<[string, StoredEvent]>([
    ['when its source is erased', stored(anEvent(), erased)],
    ['when a member is erased', stored(anEvent({ personal: sealed }), { ...KEPT, content: false })],
    [
      'when its actor has no name',
      stored(anEvent({ meta: { ...meta, actor: { type: 'operator', id: '9' } } })),
    ],
    ['when its resource has no name', stored(anEvent({ resource: { type: 'api_key', id: '9' } }))],
    ['when it sets names', stored(anEvent({ names: { name: 'x' } }))],
    ['when an id has an escape', stored(anEvent({ resource: { type: 'test', id: '"' } }))],
    ['when a value would stand twice', stored(anEvent({ data: { reason: 1 }, personal: sealed }))],
    ['when data has digests of its own', stored(anEvent({ data: { a: { _sd: ['x'] } } }))],
    [
      'when a member sorts before the digests',
      stored(anEvent({ data: { A: 1 }, personal: sealed })),
    ],
    [
      'when its layout is another',
      { ...stored(anEvent()), line: stored(anEvent()).line.replace('"v":1', '"v":2') },
    ],
  ])('%s', (_when, event) => expect(splice(event)).toBeNull());

  it('when its type and version must be upcast', () => {
    const one = stored(anEvent());
    vi.spyOn(upcast, 'hasUpcaster').mockReturnValue(true);
    expect(splice(one)).toBeNull();
  });

  it('when its salt is not as long as ours', () => {
    const salted = Buffer.from('["short","ip","192.0.2.7"]').toString('base64url');
    const one = stored(anEvent());
    const [, second = ''] = one.disclosures.split(',');
    expect(splice({ ...one, disclosures: `"${salted}",${second}` })).toBeNull();
  });
});
