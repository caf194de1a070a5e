import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AppendOutcome, EventLog } from '../../src/eventlog/eventlog.ts';
import { digestOf, openDisclosure, splitDisclosures } from '../../src/eventlog/personal.ts';
import { readLine } from '../../src/eventlog/upcast.ts';
import { anEvent, meta } from '../support/events.ts';

/** What one adapter cannot promise, each with its reason. */
export type Exceptions = Readonly<{ positionsAreDense?: string }>;

/** The port's promises; every adapter's test file runs them. */
export function describeEventLogContract(
  adapter: string,
  open: () => Promise<{ log: EventLog; close: () => Promise<void> }>,
  exceptions: Exceptions = {},
): void {
  describe(`EventLog contract: ${adapter}`, () => {
    let log: EventLog;
    let close: () => Promise<void>;
    beforeAll(async () => {
      ({ log, close } = await open());
    });
    afterAll(() => close());

    const appended = (outcome: AppendOutcome) => {
      if (outcome.kind === 'conflict') throw new Error('unexpected conflict');
      return outcome;
    };
    const stream = () => `test-${randomUUID()}`;
    const all = async (filter = {}) => {
      const { position } = await log.head();
      return log.readAll({ after: 0n, until: position, filter, limit: 100_000 });
    };

    it('gives the first event of a stream revision 0', async () => {
      const outcome = await log.append({ stream: stream(), expected: 'none', events: [anEvent()] });
      expect(appended(outcome)).toMatchObject({ kind: 'appended', revision: 0n });
    });

    it('answers a retry with where its events already are', async () => {
      const command = {
        stream: stream(),
        expected: 'none' as const,
        events: [anEvent(), anEvent()],
      };
      const first = appended(await log.append(command));
      const again = appended(await log.append(command));
      expect(again).toEqual({ ...first, kind: 'duplicate' });
      expect(await log.readStream(command.stream)).toHaveLength(2);
    });

    it.each([
      ['none', 'none' as const, 'conflict'],
      ['an older revision', 0n, 'conflict'],
      ['a later revision', 2n, 'conflict'],
      ['the current revision', 1n, 'appended'],
      ['exists', 'exists' as const, 'appended'],
      ['any', 'any' as const, 'appended'],
    ])('on a stream at revision 1, expecting %s gives its answer', async (_, expected, kind) => {
      const name = stream();
      await log.append({ stream: name, expected: 'none', events: [anEvent(), anEvent()] });
      const outcome = await log.append({ stream: name, expected, events: [anEvent()] });
      expect(outcome.kind).toBe(kind);
      if (outcome.kind === 'conflict') expect(outcome.revision).toBe(1n);
      expect(await log.readStream(name)).toHaveLength(kind === 'conflict' ? 2 : 3);
    });

    it('refuses exists on a stream that does not', async () => {
      const outcome = await log.append({
        stream: stream(),
        expected: 'exists',
        events: [anEvent()],
      });
      expect(outcome).toEqual({ kind: 'conflict', revision: -1n });
    });

    it('lets exactly one of twenty racing writers of a revision win', async () => {
      const name = stream();
      const outcomes = await Promise.all(
        Array.from({ length: 20 }, () =>
          log.append({ stream: name, expected: 'none', events: [anEvent()] }),
        ),
      );
      expect(outcomes.filter(({ kind }) => kind === 'appended')).toHaveLength(1);
      expect(outcomes.filter(({ kind }) => kind === 'conflict')).toHaveLength(19);
    });

    it('commits a command whole: its events are neighbours in order', async () => {
      const name = stream();
      const events = Array.from({ length: 7 }, (_, n) => anEvent({ data: { n } }));
      await Promise.all([
        log.append({ stream: name, expected: 'none', events }),
        ...Array.from({ length: 10 }, () =>
          log.append({ stream: stream(), expected: 'any', events: [anEvent()] }),
        ),
      ]);
      const stored = await log.readStream(name);
      expect(stored.map(({ line }) => readLine(line).data['n'])).toEqual([0, 1, 2, 3, 4, 5, 6]);
      const positions = stored.map(({ position }) => position);
      expect(positions.at(-1)).toBe((positions[0] ?? 0n) + 6n);
    });

    it('fails only the command that cannot be stored', async () => {
      const taken = anEvent();
      await log.append({ stream: stream(), expected: 'none', events: [taken] });
      const poison = { stream: stream(), expected: 'none' as const, events: [anEvent(), taken] };
      const good = Array.from({ length: 6 }, () => ({
        stream: stream(),
        expected: 'none' as const,
        events: [anEvent()],
      }));
      const outcomes = await Promise.allSettled([
        ...good.slice(0, 3).map((command) => log.append(command)),
        log.append(poison),
        ...good.slice(3).map((command) => log.append(command)),
      ]);
      expect(outcomes.map(({ status }) => status)).toEqual([
        ...Array(3).fill('fulfilled'),
        'rejected',
        ...Array(3).fill('fulfilled'),
      ]);
      expect(await log.readStream(poison.stream)).toHaveLength(0);
    });

    it.skipIf(exceptions.positionsAreDense !== undefined)('gives dense positions', async () => {
      const { events } = await all();
      expect(events.map(({ position }) => position)).toEqual(events.map((_, n) => BigInt(n + 1)));
    });

    it('records times that grow with the batch and never fall', async () => {
      const { events } = await all();
      const times = events.map(({ line }) => readLine(line).recorded_at);
      expect(times).toEqual([...times].sort());
      expect(times[0]).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
    });

    it('writes position, revision and time into the line that it hands out', async () => {
      const name = stream();
      const outcome = appended(
        await log.append({ stream: name, expected: 'none', events: [anEvent()] }),
      );
      const [stored] = await log.readStream(name);
      const line = readLine(stored?.line ?? '');
      expect(line).toMatchObject({
        position: outcome.position.toString(),
        revision: '0',
        recorded_at: outcome.recordedAt,
        stream: name,
      });
    });

    it('keeps personal values out of the line, and discloses them against its digests', async () => {
      const name = stream();
      await log.append({
        stream: name,
        expected: 'none',
        events: [anEvent({ personal: [{ name: 'reason', value: 'Möller', class: 'content' }] })],
      });
      const [stored] = await log.readStream(name);
      expect(stored?.line).not.toMatch(/Möller|192\.0\.2\.7|curl/);
      const disclosures = splitDisclosures(stored?.disclosures ?? '');
      const opened = disclosures.map((text) => openDisclosure(text));
      expect(opened.map(({ name, value }) => [name, value])).toEqual(
        expect.arrayContaining([
          ['reason', 'Möller'],
          ['ip', '192.0.2.7'],
          ['user_agent', 'curl/8.0'],
        ]),
      );
      const line = readLine(stored?.line ?? '');
      const digests = [...(line.data['_sd'] as string[]), ...(line.source._sd ?? [])];
      expect(disclosures.map(digestOf).sort()).toEqual(digests.sort());
    });

    it('names a subject until it is erased, and leaves its lines as they were', async () => {
      const name = stream();
      const id = randomUUID();
      const naming = anEvent({
        type: 'api_key.created',
        resource: { type: 'api_key', id },
        names: { name: 'SIEM key', key_prefix: 'nmg_0123456789abcdef' },
      });
      await log.append({ stream: name, expected: 'none', events: [naming] });
      const subject = `api_key:${id}`;
      expect((await log.readNames([subject])).get(subject)).toEqual({
        name: 'SIEM key',
        key_prefix: 'nmg_0123456789abcdef',
      });
      const before = await log.readStream(name);
      expect(splitDisclosures(before[0]?.disclosures ?? '')).toHaveLength(4);
      await log.eraseSubject(subject);
      await log.eraseSubject(subject);
      expect((await log.readNames([subject])).has(subject)).toBe(false);
      const after = await log.readStream(name);
      expect(after[0]?.line).toBe(before[0]?.line);
      expect(splitDisclosures(after[0]?.disclosures ?? '')).toHaveLength(2);
    });

    it('keeps the latest name of a subject that was renamed', async () => {
      const resource = { type: 'api_key', id: randomUUID() };
      const named = (type: string, values: { name: string; key_prefix?: string }) =>
        log.append({
          stream: `api_key-${resource.id}`,
          expected: 'any',
          events: [anEvent({ type, resource, names: values })],
        });
      await named('api_key.created', { name: 'old', key_prefix: 'nmg_0' });
      await named('api_key.updated', { name: 'new' });
      const subject = `api_key:${resource.id}`;
      expect((await log.readNames([subject])).get(subject)).toEqual({
        name: 'new',
        key_prefix: 'nmg_0',
      });
    });

    it('reads by each filter, and by several at once, exactly what matches', async () => {
      const kinds = ['a', 'b'];
      const tag = randomUUID().slice(0, 8);
      for (const [index, kind] of kinds.entries()) {
        const events = Array.from({ length: 5 }, (_, n) =>
          anEvent({
            type: `${tag}.${kind}`,
            resource: { type: `thing_${tag}`, id: `${n % 2}` },
            mailDomains: n % 2 === 0 ? [`${1000 + index}`] : [],
            meta: {
              ...meta,
              actor: { type: 'operator', id: `${tag}${kind}` },
              outcome: n === 4 ? 'denied' : 'success',
            },
          }),
        );
        await log.append({ stream: stream(), expected: 'any', events });
      }
      const count = async (filter: object) => (await all(filter)).events.length;
      expect(await count({ types: [`${tag}.a`] })).toBe(5);
      expect(await count({ types: [`${tag}.a`, `${tag}.b`] })).toBe(10);
      expect(await count({ typePrefixes: [`${tag}.`] })).toBe(10);
      expect(await count({ typePrefixes: [`${tag}.x`] })).toBe(0);
      expect(await count({ actors: [`operator:${tag}b`] })).toBe(5);
      expect(await count({ resources: [`thing_${tag}:1`] })).toBe(4);
      expect(await count({ resourceTypes: [`thing_${tag}`] })).toBe(10);
      expect(await count({ actorTypes: ['operator'], types: [`${tag}.a`] })).toBe(5);
      expect(await count({ mailDomains: ['1001'] })).toBe(3);
      expect(await count({ mailDomains: ['1001'], visibleTo: '1000' })).toBe(0);
      expect(await count({ mailDomains: [] })).toBe(0);
      expect(await count({ visibleTo: '1000', outcomes: ['denied'] })).toBe(1);
      expect(await count({ actors: [`operator:${tag}a`], resources: [`thing_${tag}:0`] })).toBe(3);
    });

    it('reads by several mail domains in one order, an event of two of them once', async () => {
      const ids = ['7001', '7002', '7003'];
      const of = (n: number) => (n % 4 === 3 ? ids : [ids[n % 3] ?? '']);
      const events = Array.from({ length: 24 }, (_, n) => anEvent({ mailDomains: of(n) }));
      await log.append({ stream: stream(), expected: 'any', events });
      const { position } = await log.head();
      // Beyond fifty an index scan for each is no longer worth it; the answer is the same.
      const many = Array.from({ length: 60 }, (_, n) => String(7001 + n));
      for (const mailDomains of [ids, many]) {
        for (const filter of [{ mailDomains }, { mailDomains, actorTypes: ['api_key'] }]) {
          const seen: string[] = [];
          let after = 0n;
          while (after < position) {
            const page = await log.readAll({ after, until: position, filter, limit: 5 });
            seen.push(...page.events.map(({ line }) => readLine(line).event_id));
            expect(page.scannedTo > after).toBe(true);
            after = page.scannedTo;
          }
          expect(seen).toEqual(events.map(({ eventId }) => eventId));
        }
      }
      const two = await all({ mailDomains: ['7001', '7002'] });
      expect(two.events).toHaveLength(
        events.filter((_, n) => of(n).some((id) => id < '7003')).length,
      );
      expect((await all({ mailDomains: ids, visibleTo: '7002' })).events).toHaveLength(
        events.filter((_, n) => of(n).includes('7002')).length,
      );
    });

    it('pages without loss or repetition, and says how far it looked', async () => {
      const { position } = await log.head();
      const seen: bigint[] = [];
      let after = 0n;
      while (after < position) {
        const page = await log.readAll({ after, until: position, filter: {}, limit: 3 });
        seen.push(...page.events.map((event) => event.position));
        expect(page.scannedTo > after).toBe(true);
        after = page.scannedTo;
      }
      expect(seen).toEqual((await all()).events.map((event) => event.position));
    });

    it('reads from the end down, by every kind of filter, what it reads from the start up', async () => {
      const tag = randomUUID().slice(0, 8);
      const events = Array.from({ length: 40 }, (_, n) =>
        anEvent({
          type: `${tag}.${n % 3}`,
          resource: { type: 'thing', id: `${tag}${n % 4}` },
          mailDomains: n % 2 === 0 ? ['9001'] : ['9002'],
          meta: { ...meta, outcome: n % 5 === 0 ? 'denied' : 'success' },
        }),
      );
      const before = (await log.head()).position;
      await log.append({ stream: stream(), expected: 'any', events });
      const { position } = await log.head();
      const filters = [
        {},
        { types: [`${tag}.1`] },
        { types: [`${tag}.1`, `${tag}.2`], outcomes: ['denied'] },
        { typePrefixes: [`${tag}.`] },
        { resources: [`thing:${tag}0`, `thing:${tag}3`] },
        { mailDomains: ['9001'], actorTypes: ['api_key'] },
        { outcomes: ['denied'] },
        { types: [`${tag}.none`] },
      ];
      const positionsOf = (page: { events: readonly { position: bigint }[] }) =>
        page.events.map((event) => event.position);
      for (const filter of filters) {
        for (const [after, until] of [
          [before, position],
          [before + 3n, position - 4n],
          [position, before],
        ] as const) {
          const up = await log.readAll({ after, until, filter, limit: 1_000 });
          const down: bigint[] = [];
          let top = until;
          while (top > after) {
            const page = await log.readAll({ after, until: top, filter, limit: 3, order: 'desc' });
            expect(page.scannedTo < top).toBe(true);
            down.push(...positionsOf(page));
            top = page.scannedTo;
          }
          expect(down.toReversed()).toEqual(positionsOf(up));
        }
      }
    });

    it('reads by when it happened, half open, whenever it was recorded', async () => {
      const tag = randomUUID().slice(0, 8);
      const times = ['2020-01-01T00:00:00.000001Z', '2030-01-01T00:00:00.000000Z', meta.occurredAt];
      const events = times.map((occurredAt) =>
        anEvent({ type: `${tag}.at`, meta: { ...meta, occurredAt } }),
      );
      await log.append({ stream: stream(), expected: 'any', events });
      const [early = '', late = '', middle = ''] = times;
      const between = async (occurredFrom?: string, occurredTo?: string) => {
        const from = occurredFrom === undefined ? {} : { occurredFrom };
        const to = occurredTo === undefined ? {} : { occurredTo };
        const page = await all({ types: [`${tag}.at`], ...from, ...to });
        return page.events.map(({ line }) => readLine(line).occurred_at);
      };
      expect(await between(middle)).toEqual([late, middle]);
      expect(await between(undefined, middle)).toEqual([early]);
      expect(await between(early, late)).toEqual([early, middle]);
      expect(await between(late, late)).toEqual([]);
    });

    it('reads lines in the same order and pages as events, and nothing but the line', async () => {
      const tag = randomUUID().slice(0, 8);
      for (let n = 0; n < 12; n += 1) {
        const personal = [{ name: 'reason', value: 'Möller', class: 'content' } as const];
        const events = [
          anEvent({ type: `${tag}.${n % 3}`, mailDomains: n % 2 === 0 ? ['8001'] : [], personal }),
        ];
        await log.append({ stream: stream(), expected: 'any', events });
      }
      const { position: until } = await log.head();
      const filters = [
        {},
        { types: [`${tag}.1`] },
        { types: [`${tag}.0`, `${tag}.2`], mailDomains: ['8001'] },
        // More than there are index scans for.
        { types: Array.from({ length: 60 }, (_, n) => `${tag}.${n + 1}`) },
        { typePrefixes: [`${tag}.`], actorTypes: ['api_key'] },
        { mailDomains: ['8001'] },
        { types: [`${tag}.none`] },
      ];
      let compared = 0;
      for (const filter of filters) {
        for (const limit of [2, 1_000]) {
          for (let after = 0n; after < until; ) {
            const range = { after, until, filter, limit };
            const [lines, events] = await Promise.all([log.readLines(range), log.readAll(range)]);
            expect(lines.scannedTo).toBe(events.scannedTo);
            expect(lines.lines).toEqual(
              events.events.map(({ position, line }) => ({
                ...{ position, line },
                type: readLine(line).type,
              })),
            );
            compared += lines.lines.length;
            after = lines.scannedTo;
          }
        }
      }
      expect(compared).toBeGreaterThan(2 * (12 + 4 + 4 + 8 + 12 + 6));
      const nothing = { after: until, until, filter: {}, limit: 5 };
      expect(await log.readLines(nothing)).toEqual({ lines: [], scannedTo: until });
    });

    it('counts by each filter what reading gives, between any two positions', async () => {
      const tag = randomUUID().slice(0, 8);
      const { position: before } = await log.head();
      const events = Array.from({ length: 20 }, (_, n) =>
        anEvent({
          type: `${tag}.${n % 4}`,
          resource: { type: `thing_${tag}`, id: `${n % 3}` },
          mailDomains: [['9001'], ['9002'], ['9001', '9002'], []][n % 4] ?? [],
          meta: {
            ...meta,
            actor: { type: n % 2 === 0 ? 'operator' : 'node', id: tag },
            outcome: n % 5 === 0 ? 'failure' : 'success',
          },
        }),
      );
      await log.append({ stream: stream(), expected: 'any', events });
      const { position: until } = await log.head();
      const wanted: [object, bigint][] = [
        [{}, 20n],
        [{ types: [`${tag}.0`] }, 5n],
        [{ types: [`${tag}.0`, `${tag}.3`] }, 10n],
        [{ types: Array.from({ length: 60 }, (_, n) => `${tag}.${n + 1}`) }, 15n],
        [{ types: [] }, 0n],
        [{ typePrefixes: [`${tag}.`] }, 20n],
        [{ mailDomains: ['9001'] }, 10n],
        // One of both is one.
        [{ mailDomains: ['9001', '9002'] }, 15n],
        [{ types: [`${tag}.0`, `${tag}.1`], mailDomains: ['9001'] }, 5n],
        [{ mailDomains: ['9001'], visibleTo: '9002' }, 5n],
        [{ mailDomains: [] }, 0n],
        [{ actors: [`operator:${tag}`] }, 10n],
        [{ actorTypes: ['node'], types: [`${tag}.1`] }, 5n],
        [{ resources: [`thing_${tag}:0`] }, 7n],
        [{ resourceTypes: [`thing_${tag}`], outcomes: ['failure'] }, 4n],
      ];
      for (const [filter, n] of wanted) {
        expect([filter, await log.count({ after: before, until, filter })]).toEqual([filter, n]);
        const part = { after: before + 3n, until: until - 4n, filter };
        const { events: read } = await log.readAll({ ...part, limit: 1_000 });
        expect([filter, await log.count(part)]).toEqual([filter, BigInt(read.length)]);
      }
      expect(await log.count({ after: until, until, filter: {} })).toBe(0n);
      expect(await log.count({ after: 0n, until, filter: {} })).toBe(
        BigInt((await all()).events.length),
      );
    });

    it('knows where an event stands by its id, and of no other id', async () => {
      const events = [anEvent(), anEvent(), anEvent()];
      await log.append({ stream: stream(), expected: 'any', events });
      const { position } = await log.head();
      const found = await Promise.all(events.map(({ eventId }) => log.positionOf(eventId)));
      expect(found).toEqual([position - 2n, position - 1n, position]);
      expect(await log.positionOf(randomUUID())).toBeNull();
    });

    it('reads in segments the same bytes as in pages', async () => {
      const { position } = await log.head();
      const bytes: string[] = [];
      let after = 0n;
      while (after < position) {
        const segment = await log.readSegment(after, position);
        bytes.push(...segment.events.map((e) => `${e.line}|${e.disclosures}`));
        after = segment.scannedTo;
      }
      expect(bytes).toEqual((await all()).events.map((e) => `${e.line}|${e.disclosures}`));
    });

    it('reads as evidence the same bytes, one event a line', async () => {
      const { position } = await log.head();
      const lines: string[] = [];
      let after = 0n;
      let count = 0;
      while (after < position) {
        const segment = await log.readEvidence(after, position);
        lines.push(...segment.bytes.toString('utf8').split('\n').slice(0, -1));
        count += segment.count;
        after = segment.scannedTo;
      }
      const wanted = (await all()).events.map(
        ({ line, disclosures }) => `{"line":${line},"disclosures":[${disclosures}]}`,
      );
      expect(lines).toEqual(wanted);
      expect(count).toBe(wanted.length);
    });

    it('finds the position of a time', async () => {
      const { events } = await all();
      const middle = events[Math.floor(events.length / 2)];
      const time = readLine(middle?.line ?? '').recorded_at;
      const first = events.find(({ line }) => readLine(line).recorded_at === time);
      expect(await log.positionBefore(time)).toBe((first?.position ?? 0n) - 1n);
      expect(await log.positionBefore('2000-01-01T00:00:00Z')).toBe(0n);
      expect(await log.positionBefore('2999-01-01T00:00:00Z')).toBe((await log.head()).position);
    });

    it('wakes a follower for what is appended, and ends on its signal', async () => {
      const { position } = await log.head();
      const abort = new AbortController();
      const heads: bigint[] = [];
      const following = (async () => {
        for await (const head of log.follow(position, abort.signal)) {
          heads.push(head);
          if (head >= position + 3n) abort.abort();
        }
      })();
      for (let n = 0; n < 3; n += 1) {
        await log.append({ stream: stream(), expected: 'any', events: [anEvent()] });
      }
      await following;
      expect(heads.at(-1)).toBe(position + 3n);
    });

    it('refuses an event whose line would not fit a tile entry', async () => {
      const huge = anEvent({ data: { text: 'x'.repeat(66_000) } });
      await expect(
        log.append({ stream: stream(), expected: 'any', events: [huge] }),
      ).rejects.toMatchObject({ code: 'payload_too_large' });
    });
  });
}
