import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { projectionsOf } from '../../src/projections/list.ts';
import { rebuildProjection } from '../../src/projections/rebuild.ts';
import { asAdmin, createDatabase } from '../support/database.ts';
import { anEvent, meta } from '../support/events.ts';
import { type Reply, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { headOf } from '../support/recorded.ts';
import { stoppedClock } from '../support/stopped-clock.ts';

let t: TestGateway;
let other: TestGateway;
beforeAll(async () => {
  t = await startTestGateway({ clock: stoppedClock() });
  // Clones of one template would be one log.
  const database = await createDatabase();
  await asAdmin(database.url, 'update eventlog.log_info set log_id = gen_random_uuid()');
  other = await startTestGateway({ database });
  await fill(t, 300);
  await fill(other, 50);
  await t.send('GET', '/audit/logs');
});
afterAll(async () => {
  await t.close();
  await other.close();
});

const TYPES = ['test.happened', 'test.ended', 'other.happened'];
const OUTCOMES = ['success', 'denied', 'failure'] as const;
let made = 0;

/** Appends varied events; which is which follows from their number alone. */
async function fill({ gateway }: TestGateway, count: number): Promise<void> {
  for (let left = count; left > 0; left -= 50) {
    const events = Array.from({ length: Math.min(50, left) }, () => {
      made += 1;
      return anEvent({
        type: TYPES[made % 3]!,
        resource: { type: made % 2 === 0 ? 'test' : 'probe', id: String(made % 5) },
        mailDomains: made % 4 === 0 ? [String(1 + (made % 3))] : [],
        meta: {
          ...meta,
          actor: { type: 'node', id: String(made % 7) },
          outcome: OUTCOMES[made % 3]!,
        },
      });
    });
    await gateway.context.log.append({ stream: `test-${made}`, expected: 'none', events });
  }
}

const read = (query: string, key = t.bootstrapKey, from = t): Promise<Reply> =>
  from.send('GET', `/audit/logs?${query}`, { key });
const cursorOf = async (query = 'limit=10', key = t.bootstrapKey, from = t): Promise<string> =>
  (await read(query, key, from)).headers.get('x-next-cursor') ?? '';
const positionsOf = (reply: Reply): string[] =>
  reply.body.data.map(({ position }: { position: string }) => position);
const outcomeOf = async (query: string, key?: string) => {
  const { status, body } = await read(query, key);
  return [status, body.error];
};

describe('a cursor', () => {
  it('starts with a letter and stands on every line', async () => {
    const reply = await read('limit=20');
    for (const line of reply.body.data) {
      expect(line.cursor).toMatch(/^c[A-Za-z0-9_-]+$/);
      const [next] = positionsOf(await read(`limit=1&cursor=${line.cursor}`));
      expect(next).toBe(String(BigInt(line.position) + 1n));
    }
  });

  it.each([
    'x',
    'c',
    '1',
    '10',
    'c'.repeat(72),
    'cAAAA',
    `c${'A'.repeat(71)}`,
    `c${'A'.repeat(72)}`,
    'i10',
    "c' or 1=1",
    'ｃ'.repeat(72),
    '../../etc',
    'e30=',
  ])('400: garbage, %s', async (cursor) => {
    const [status, error] = await outcomeOf(`cursor=${encodeURIComponent(cursor)}`);
    expect(status).toBe(400);
    expect(['invalid_cursor', 'validation_failed']).toContain(error);
  });

  it('400: empty, and beside after=', async () => {
    expect(await outcomeOf('cursor=')).toEqual([400, 'validation_failed']);
    expect(await outcomeOf(`cursor=${await cursorOf()}&after=1`)).toEqual([
      400,
      'validation_failed',
    ]);
  });

  it('400: cut anywhere, or longer', async () => {
    const cursor = await cursorOf();
    for (let length = 1; length < cursor.length; length += 1) {
      expect((await outcomeOf(`cursor=${cursor.slice(0, length)}`))[0]).toBe(400);
    }
    for (const more of ['A', '=', '%3D', 'AAAA']) {
      expect((await outcomeOf(`cursor=${cursor}${more}`))[0]).toBe(400);
    }
  });

  it('is refused with any of its bits flipped', async () => {
    const cursor = await cursorOf();
    const bytes = Buffer.from(cursor.slice(1), 'base64url');
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const flipped = Buffer.from(bytes);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      const [status, error] = await outcomeOf(`cursor=c${flipped.toString('base64url')}`);
      // Bits of the log's id make it another log's, and that is said.
      const isLogId = bit >> 3 >= 1 && bit >> 3 <= 16;
      expect([bit, status, error]).toEqual(
        isLogId ? [bit, 409, 'cursor_log_mismatch'] : [bit, 400, 'invalid_cursor'],
      );
    }
  });

  it('is refused with any of its characters changed', async () => {
    const cursor = await cursorOf();
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    for (const at of [0, 1, 30, cursor.length - 2, cursor.length - 1]) {
      for (const character of alphabet.replace(cursor[at]!, '')) {
        const changed = cursor.slice(0, at) + character + cursor.slice(at + 1);
        const [status] = await outcomeOf(`cursor=${changed}`);
        expect([changed, [400, 409].includes(Number(status))]).toEqual([changed, true]);
      }
    }
  });

  it.each([
    ['no filter', ''],
    ['another action', 'action=test.ended'],
    ['one more action', 'action=test.happened,test.ended'],
    ['one more member', 'action=test.happened&outcome=success'],
    ['a beginning', 'action=test.happened&from=2020-01-01T00:00:00Z'],
    ['an end', 'action=test.happened&to=2099-01-01T00:00:00Z'],
    ['a prefix', 'action=test.happened*'.replace('*', '.*')],
  ])('400: given for one filter and used with %s', async (_, query) => {
    const cursor = await cursorOf('action=test.happened&limit=5');
    expect(await outcomeOf(`${query}&cursor=${cursor}`)).toEqual([400, 'cursor_filter_mismatch']);
  });

  it('continues with another limit and another form', async () => {
    const cursor = await cursorOf('action=test.happened&limit=5');
    const readable = await read(`action=test.happened&limit=7&cursor=${cursor}`);
    const evidence = await read(`action=test.happened&limit=7&form=evidence&cursor=${cursor}`);
    expect(readable.status).toBe(200);
    expect(
      evidence.body.data.map((item: { line: { position: string } }) => item.line.position),
    ).toEqual(positionsOf(readable));
    expect(evidence.headers.get('x-next-cursor')).toBe(readable.headers.get('x-next-cursor'));
  });

  it('400: of another scope, or of another mail domain', async () => {
    const [a, b] = [await t.createDomain(), await t.createDomain()];
    const keys = {
      reader: await t.createKey(),
      inA: await t.createKey({ mail_domain: a.name }),
      inB: await t.createKey({ mail_domain: b.name }),
      adminOfA: await t.createKey({ scope: 'domain-admin', mail_domain: a.name }),
    };
    const cursors = await Promise.all(
      Object.values(keys).map(({ key }) => cursorOf('limit=5', key)),
    );
    for (const [own, { key }] of Object.values(keys).entries()) {
      for (const [index, cursor] of cursors.entries()) {
        expect(await outcomeOf(`cursor=${cursor}`, key)).toEqual(
          index === own ? [200, null] : [400, 'cursor_filter_mismatch'],
        );
      }
    }
    // Another key of the same reach goes on where the first had come to: a key is rotated now and then.
    const twin = await t.createKey();
    expect(await outcomeOf(`cursor=${cursors[0]}`, twin.key)).toEqual([200, null]);
  });

  it('400: of a name for its id, and of an id for its name', async () => {
    const { id, name } = await t.createDomain();
    const [byName, byId] = [await cursorOf(`domain=${name}`), await cursorOf(`domain=${id}`)];
    for (const [domain, cursor] of [
      [name, byId],
      [id, byName],
    ]) {
      expect(await outcomeOf(`domain=${domain}&cursor=${cursor}`)).toEqual([
        400,
        'cursor_filter_mismatch',
      ]);
    }
  });

  it('409: of another log', async () => {
    const cursor = await cursorOf('limit=10', other.bootstrapKey, other);
    expect(await outcomeOf(`cursor=${cursor}`)).toEqual([409, 'cursor_log_mismatch']);
  });

  it('409: ahead of the head, as after= is', async () => {
    const head = await headOf(t);
    const { cursors } = t.gateway.context;
    const principal = { scope: 'full-admin', mailDomain: null } as never;
    const ahead = cursors.encode(cursors.bind({}, principal), head + 1n);
    expect(await outcomeOf(`cursor=${ahead}`)).toEqual([409, 'cursor_ahead_of_log']);
    expect(await outcomeOf(`after=${head + 1n}`)).toEqual([409, 'cursor_ahead_of_log']);
    expect(await outcomeOf('after=9223372036854775807')).toEqual([409, 'cursor_ahead_of_log']);
    expect(await outcomeOf(`after=${head}`)).toEqual([200, null]);
  });

  it('keeps a position exactly where a float64 could not', () => {
    const { cursors } = t.gateway.context;
    const bound = cursors.bind({}, { scope: 'full-admin', mailDomain: null } as never);
    for (const position of [2n ** 53n - 1n, 2n ** 53n + 1n, 2n ** 62n + 1n, 2n ** 63n - 1n]) {
      const cursor = cursors.encode(bound, position);
      const carried = JSON.parse(JSON.stringify({ cursor }));
      expect(Number(carried.cursor)).toBeNaN();
      const place = cursors.decode(bound, carried.cursor, 2n ** 63n - 1n);
      expect(place).toEqual({ position, numbering: null });
    }
  });

  it('keeps the number that a subscription has given to what it stands behind', () =>
    fc.assert(
      fc.property(
        fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }),
        fc.record({ epoch: fc.nat(2 ** 32 - 1), sequence: fc.maxSafeNat() }),
        (position, numbering) => {
          const { cursors } = t.gateway.context;
          const bound = cursors.bind({}, { scope: 'full-admin', mailDomain: null } as never);
          const cursor = cursors.encode(bound, position, numbering);
          const place = cursors.decode(bound, cursor, 2n ** 63n - 1n);
          expect(place).toEqual({ position, numbering });
        },
      ),
    ));

  it.each([
    ['a byte less', (bytes: Buffer) => bytes.subarray(0, -1)],
    ['a byte more', (bytes: Buffer) => Buffer.concat([bytes, Buffer.of(0)])],
    ['the other version', (bytes: Buffer) => bytes.fill(1, 0, 1)],
    ['another number', (bytes: Buffer) => bytes.fill(9, 37, 49)],
  ])('400: with %s', (_, alter) => {
    const { cursors } = t.gateway.context;
    const bound = cursors.bind({}, { scope: 'full-admin', mailDomain: null } as never);
    const cursor = cursors.encode(bound, 1n, { epoch: 1, sequence: 1 });
    const altered = `c${alter(Buffer.from(cursor.slice(1), 'base64url')).toString('base64url')}`;
    expect(() => cursors.decode(bound, altered, 9n)).toThrow(
      expect.objectContaining({ code: 'invalid_cursor' }),
    );
  });

  it('gives positions as text', async () => {
    const reply = await read('limit=3');
    for (const line of reply.body.data) expect(line.position).toMatch(/^[1-9]\d*$/);
    expect(reply.text).not.toMatch(/"(position|revision)":\d/);
  });
});

describe('paging', () => {
  const filters = fc.record(
    {
      action: fc.constantFrom('test.happened', 'test.*', 'test.ended,other.happened', 'none.*'),
      actor: fc.constantFrom('node:1', 'node:1,node:2,node:3', 'node:99'),
      actor_type: fc.constantFrom('node', 'system', 'node,system'),
      resource: fc.constantFrom('test:0', 'test:2,probe:3', 'test:99'),
      resource_type: fc.constantFrom('test', 'probe', 'test,probe'),
      outcome: fc.constantFrom('denied', 'success,failure'),
      domain: fc.constantFrom('1', '2', '77'),
    },
    { requiredKeys: [] },
  );

  it('gives exactly the events of one big read, while events are appended', async () => {
    await fc.assert(
      fc.asyncProperty(
        filters,
        fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 5 }),
        async (filter, sizes) => {
          const query = new URLSearchParams(filter as Record<string, string>).toString();
          const seen: string[] = [];
          let cursor = '';
          for (let page = 0; page < 1_000; page += 1) {
            const size = sizes[page % sizes.length];
            const reply = await read(`${query}&limit=${size}${cursor}`);
            expect(reply.status).toBe(200);
            seen.push(...positionsOf(reply));
            cursor = `&cursor=${reply.headers.get('x-next-cursor')}`;
            const hasMore = reply.headers.get('x-has-more') === 'true';
            // A page is never empty while there is more.
            expect(hasMore && reply.body.data.length === 0).toBe(false);
            if (!hasMore) break;
            if (page < 3) await fill(t, 3);
          }
          const whole = await read(`${query}&limit=10000`);
          expect(seen).toEqual(positionsOf(whole));
        },
      ),
      { numRuns: 25 },
    );
  });

  it('and each line s cursor continues behind its line', async () => {
    const whole = await read('action=test.*&limit=10000');
    const positions = positionsOf(whole);
    for (const at of [0, 1, 50, positions.length - 1]) {
      const reply = await read(`action=test.*&limit=10000&cursor=${whole.body.data[at].cursor}`);
      expect(positionsOf(reply)).toEqual(positions.slice(at + 1));
    }
  });
});

describe('what a cursor outlives', () => {
  const QUERY = 'action=test.*&limit=40';

  async function answers(cursors: readonly string[]): Promise<string[]> {
    const replies = await Promise.all(cursors.map((cursor) => read(`${QUERY}&cursor=${cursor}`)));
    return replies.map(({ text, headers }) => text + headers.get('x-next-cursor'));
  }

  it('a restart and the rebuild of every projection', async () => {
    const first = await read(QUERY);
    const cursors = [0, 7, 39].map((at) => first.body.data[at].cursor);
    const before = await answers(cursors);
    t = await t.restart();
    expect(await answers(cursors)).toEqual(before);
    const { pool, log } = t.gateway.context;
    for (const projection of projectionsOf(log)) await rebuildProjection({ pool, log }, projection);
    expect(await answers(cursors)).toEqual(before);
    expect((await read(QUERY)).text).toBe(first.text);
  });

  it('the deletion of the mail domain it is of, and another one of the same name', async () => {
    const name = 'comes-and-goes.example';
    const create = async () => (await t.createDomain(name)).id;
    const change = async (id: number) =>
      t.send('PATCH', `/domains/${id}`, { body: { active: false } });
    const ids = [await create()];
    const cursors = [await cursorOf(`domain=${name}&limit=1`)];
    const expectAll = async () => {
      const whole = await read(`domain=${name}&limit=10000`);
      const { events } = await t.gateway.context.log.readAll({
        after: 0n,
        until: await headOf(t),
        filter: { mailDomains: ids.map(String) },
        limit: 10_000,
      });
      expect(positionsOf(whole)).toEqual(events.map(({ position }) => String(position)));
      const places = [];
      for (const cursor of cursors) {
        const reply = await read(`domain=${name.toUpperCase()}&limit=10000&cursor=${cursor}`);
        expect([reply.status, reply.body.error]).toEqual([200, null]);
        const seen = positionsOf(reply);
        expect(seen).toEqual(positionsOf(whole).slice(positionsOf(whole).length - seen.length));
        places.push(positionsOf(whole).length - seen.length);
      }
      // Behind the first, the second, … event: nothing was stepped over, nothing comes again.
      expect(places[0]).toBe(1);
      expect(new Set(places).size).toBe(cursors.length);
      return positionsOf(whole).length;
    };
    for (let round = 0; round < 2; round += 1) {
      await change(ids.at(-1) ?? 0);
      cursors.push(await cursorOf(`domain=${name}&limit=10000`));
      expect((await t.send('DELETE', `/domains/${ids.at(-1)}`)).status).toBe(200);
      await expectAll();
      ids.push(await create());
      await expectAll();
    }
    expect(new Set(ids).size).toBe(3);
    const before = await expectAll();
    t = await t.restart();
    expect(await expectAll()).toBe(before);
    const ofFirst = await read(`domain=${ids[0]}&action=mail_domain.*&limit=10000`);
    expect(ofFirst.body.data.map(({ type }: { type: string }) => type)).toEqual([
      'mail_domain.created',
      'mail_domain.updated',
      'mail_domain.deleted',
    ]);
  });

  it('shows a narrowed reader of a name none of the mail domains that had it before', async () => {
    const { id, name } = await t.createDomain('had-it-before.example');
    await t.send('DELETE', `/domains/${id}`);
    const again = await t.createDomain(name);
    const { key } = await t.createKey({ mail_domain: name });
    const whole = await read(`domain=${name}&limit=10000`, key);
    const resources = whole.body.data.map(({ resource }: any) => `${resource.type}:${resource.id}`);
    expect(resources).toContain(`mail_domain:${again.id}`);
    expect(resources).not.toContain(`mail_domain:${id}`);
    expect((await read(`domain=${id}`, key)).status).toBe(422);
  });

  it('not a restore that may have taken positions back: 409', async () => {
    const cursor = await cursorOf();
    await asAdmin(t.database.url, 'update eventlog.log_info set epoch = epoch + 1');
    t = await t.restart();
    expect(await outcomeOf(`cursor=${cursor}`)).toEqual([409, 'cursor_log_mismatch']);
    expect(await outcomeOf(`cursor=${await cursorOf()}`)).toEqual([200, null]);
  });

  it('not the archiving of what it stands before: 410', async () => {
    const line = async (after: number) =>
      (await read(`limit=1&after=${after - 1}`)).body.data[0].cursor as string;
    const [before, atEdge] = [await line(48), await line(49)];
    await asAdmin(t.database.url, 'update eventlog.log_info set minimum_position = 50');
    t = await t.restart();
    expect(await outcomeOf(`cursor=${before}`)).toEqual([410, 'cursor_gone']);
    expect(await outcomeOf('after=48')).toEqual([410, 'cursor_gone']);
    expect((await read(`cursor=${before}`)).body.data).toEqual({ minimum_position: '50' });
    expect(positionsOf(await read(`limit=1&cursor=${atEdge}`))).toEqual(['50']);
  });
});
