import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { holdAppends, recordsType } from '../support/hold.ts';
import { recording, typesOf } from '../support/recorded.ts';

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway();
});
afterAll(() => t.close());

/** Changes one mail domain by several requests, all of which have read it before any is recorded. */
async function changeAtOnce(id: number, method: string, bodies: readonly object[]) {
  const held = holdAppends(
    t.gateway.context.log,
    recordsType('mail_domain.updated'),
    bodies.length,
  );
  const sent = bodies.map((body) => t.send(method, `/domains/${id}`, { body }));
  await held.reached;
  held.release();
  return Promise.all(sent);
}
const readOf = async (id: number) => t.send('GET', `/domains/${id}`);

describe.each(['PATCH', 'PUT'])('%s /domains/{id} while somebody else does the same', (method) => {
  it('200: changes of other members survive each other', async () => {
    const { id } = await t.createDomain();
    const bodies = [
      { quarantine_threshold: 7 },
      { active: false },
      { tenant_id: 'acme' },
      { backend_servers: ['mx.example.com:25'] },
    ];
    const replies = await changeAtOnce(id, method, bodies);
    expect(replies.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    const read = await readOf(id);
    expect(read.body.data).toMatchObject(Object.assign({}, ...bodies));
    expect(read.headers.get('etag')).toBe('"4"');
  });

  it('200: each answer is the mail domain as its ETag names it', async () => {
    const { id } = await t.createDomain();
    // Only the first that comes is held, so that the other one is recorded in between.
    let appends = 0;
    const held = holdAppends(t.gateway.context.log, () => {
      appends += 1;
      return appends === 1;
    });
    const later = t.send(method, `/domains/${id}`, { body: { active: false } });
    await held.reached;
    await t.send(method, `/domains/${id}`, { body: { backend_servers: ['mx.example.com:25'] } });
    held.release();
    const reply = await later;
    expect(reply.headers.get('etag')).toBe('"2"');
    expect(reply.body.data).toEqual((await readOf(id)).body.data);
  });

  it('200: of two that change the same member the later one holds', async () => {
    const { id } = await t.createDomain();
    const replies = await changeAtOnce(id, method, [
      { quarantine_threshold: 3 },
      { quarantine_threshold: 4 },
    ]);
    const last = replies.find(({ headers }) => headers.get('etag') === '"2"');
    expect((await readOf(id)).body.data).toEqual(last?.body.data);
  });

  it('400: of two that would together reject before they quarantine one is refused', async () => {
    const { id } = await t.createDomain();
    const { reply, facts } = await recording(t, async () => {
      const replies = await changeAtOnce(id, method, [
        { quarantine_threshold: 17 },
        { reject_threshold: 13 },
      ]);
      expect(replies.map(({ status }) => status).toSorted()).toEqual([200, 400]);
      return replies.find(({ status }) => status === 400) ?? replies[0]!;
    });
    expect(reply.body.error).toBe('validation_failed');
    expect(typesOf(facts)).toEqual(['mail_domain.updated']);
  });
});
