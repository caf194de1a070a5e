import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openFindings } from '../../src/cli/findings.ts';
import { canonicalJson } from '../../src/eventlog/canonical.ts';
import { asAdmin, createDatabase, type TestDatabase } from '../support/database.ts';
import { anEvent } from '../support/events.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { joinerOf, mailguard, temporary } from './support.ts';

const verify = async (env: NodeJS.ProcessEnv) => {
  const { code, stdout, stderr } = await mailguard(['log', 'verify', '--json'], { env });
  return { code, stderr, verdict: stdout === '' ? null : JSON.parse(stdout) };
};

describe('log verify of a sound log', () => {
  let t: TestGateway;
  beforeAll(async () => {
    t = await startTestGateway();
    const domain = await t.createDomain();
    const { id } = await t.createKey({ mail_domain: domain.name, scope: 'domain-admin' });
    await t.send('PATCH', `/auth/api-keys/${id}`, { body: { name: 'renamed' } });
    const { id: erased } = await t.createKey();
    await t.send('POST', `/auth/api-keys/${erased}/revoke`, { body: { reason: 'gone' } });
    await t.send('DELETE', `/auth/api-keys/${erased}`);
    // More than a segment, with several streams in it.
    const { log } = t.gateway.context;
    for (const stream of ['test-1', 'test-2', 'test-3']) {
      const events = Array.from({ length: 500 }, () => anEvent());
      await log.append({ stream, expected: 'none', events });
    }
  });
  afterAll(() => t.close());

  it('is 0 while a gateway runs, also after an erasure and a renaming', async () => {
    const { code, stderr, verdict } = await verify(joinerOf(t));
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const { rows } = await t.database.pool.query(
      'select count(*)::int as events, count(distinct stream)::int as streams from eventlog.events',
    );
    expect(verdict).toMatchObject({
      ok: true,
      ...rows[0],
      head: `${rows[0].events}`,
      problems: [],
    });
    // Address and user agent of each of the test's events, and more.
    expect(verdict.disclosures).toBeGreaterThan(3_000);
  });

  it('is a sentence without --json', async () => {
    const { code, stdout } = await mailguard(['log', 'verify'], { env: joinerOf(t) });
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^Sound: [\d,]+ events in \d+ streams, [\d,]+ disclosures, head \d+\.\n$/,
    );
  });

  it('changes nothing', async () => {
    const before = await t.gateway.context.log.head();
    await verify(joinerOf(t));
    expect(await t.gateway.context.log.head()).toEqual(before);
  });
});

describe('log verify of a log without events', () => {
  let database: TestDatabase;
  let env: NodeJS.ProcessEnv;
  beforeAll(async () => {
    database = await createDatabase();
    env = { MAILGUARD_DATABASE_URL: database.url };
  });
  afterAll(() => database.drop());

  it('is 0', async () => {
    const { code, verdict } = await verify(env);
    expect(code).toBe(0);
    expect(verdict).toMatchObject({ ok: true, events: 0, streams: 0, disclosures: 0, head: '0' });
  });

  it('is 130 when it is interrupted', async () => {
    const ran = await mailguard(['log', 'verify'], { env, signal: AbortSignal.abort() });
    expect(ran).toEqual({ code: 130, stdout: '', stderr: '' });
  });

  it('is 2 when a table is missing', async () => {
    await asAdmin(database.url, 'drop table eventlog.subject_names');
    const { code, stderr } = await verify(env);
    expect(code).toBe(2);
    expect(stderr).toContain('The log cannot be checked.');
  });
});

describe('log verify that cannot be done', () => {
  it.each([
    ['nothing listens', { MAILGUARD_DATABASE_URL: 'postgres://u:secret@127.0.0.1:1/x' }],
    ['settings are refused', { MAILGUARD_DATABASE_URL: 'mysql://x' }],
    ['there is no database', { MAILGUARD_DATA_DIR: temporary() }],
  ])('is 2 when %s', async (_, env) => {
    const { code, stderr, verdict } = await verify(env);
    expect({ code, verdict }).toEqual({ code: 2, verdict: null });
    expect(stderr).not.toBe('');
    expect(stderr).not.toContain('secret');
  });
});

describe('log verify of a damaged log', () => {
  const SUBJECT = 'test:7';
  let database: TestDatabase;

  /** Ten events, 5 of them naming a subject, 6 and 7 of mail domain 3, each with personal values. */
  const fill = async () => {
    const log = await database.openLog();
    for (let n = 1; n <= 10; n += 1) {
      const events = [
        anEvent({
          type: n === 5 ? 'api_key.created' : 'test.happened',
          resource: n === 5 ? { type: 'test', id: '7' } : { type: 'test', id: '1' },
          names: n === 5 ? { name: 'shown', key_prefix: 'nmg_0123' } : null,
          mailDomains: n === 6 || n === 7 ? ['3'] : [],
          personal: [{ name: 'note', value: `n${n}`, class: 'identity' }],
        }),
      ];
      await log.append({ stream: n % 2 === 0 ? 'test-even' : 'test-odd', expected: 'any', events });
    }
  };
  const TABLES = ['events', 'event_personal', 'event_mail_domains', 'subject_names'];
  /** What somebody with every right can do. */
  const damage = (sql: string) => asAdmin(database.url, sql);
  beforeAll(async () => {
    database = await createDatabase();
    await fill();
    const save = TABLES.map((table) => `create table saved.${table} as table eventlog.${table};`);
    const off = TABLES.map((table) => `alter table eventlog.${table} disable trigger all;`);
    await damage(`create schema saved; ${save.join('')} ${off.join('')}`);
  });
  beforeEach(async () => {
    const reset = TABLES.map(
      (table) =>
        `delete from eventlog.${table}; insert into eventlog.${table} table saved.${table};`,
    );
    await damage(`${reset.join('')} delete from projection_checkpoints;
      update eventlog.log_info set minimum_position = 1`);
  });
  afterAll(() => database.drop());

  const lineOf = async (position: number): Promise<Record<string, unknown>> => {
    const { rows } = await database.pool.query(
      'select line from eventlog.events where position = $1',
      [position],
    );
    return JSON.parse(rows[0].line);
  };
  const setLine = async (position: number, line: string) =>
    damage(
      `update eventlog.events set line = '${line.replaceAll("'", "''")}' where position = ${position}`,
    );
  const found = async () => {
    const { code, stderr, verdict } = await verify({ MAILGUARD_DATABASE_URL: database.url });
    return {
      code,
      stderr,
      problems: verdict.problems.map((p: any) => `${p.class} ${p.position}`) as string[],
      details: verdict.problems.map((p: any) => p.detail).join('\n') as string,
    };
  };

  it('finds nothing before anything is damaged', async () => {
    expect(await found()).toMatchObject({ code: 0, problems: [] });
  });

  it('finds a missing position, and the revision missing with it', async () => {
    await damage('delete from eventlog.events where position in (3, 4)');
    const { code, stderr, problems } = await found();
    expect(code).toBe(1);
    expect(problems).toContain('gap 3');
    expect(problems).toContain('stream 5');
    expect(stderr).toContain('damaged: gap at position 3: 3 to 4 are missing');
  });

  it('finds that the log began later', async () => {
    await damage('delete from eventlog.events where position = 1');
    expect((await found()).problems).toEqual(expect.arrayContaining(['gap 1', 'stream 3']));
  });

  it('knows where an archived log begins', async () => {
    await damage(`delete from eventlog.events where position <= 4;
      delete from eventlog.event_personal where position <= 4;
      update eventlog.log_info set minimum_position = 5`);
    expect(await found()).toMatchObject({ code: 0, problems: [] });
  });

  it('finds a position that was made up, without looking for all before it', async () => {
    await damage('update eventlog.events set position = 4000000000000000000 where position = 10');
    expect((await found()).problems).toContain('gap 10');
  });

  it('finds a revision that does not follow', async () => {
    await damage('update eventlog.events set revision = 9 where position = 10');
    expect((await found()).problems).toEqual(['stream 10', 'column 10']);
  });

  it('finds a recorded time that falls', async () => {
    const line = await lineOf(6);
    const recorded_at = '2020-01-01T00:00:00.000000Z';
    await setLine(6, canonicalJson({ ...line, recorded_at } as never));
    await damage(`update eventlog.events set recorded_at = '${recorded_at}' where position = 6`);
    expect((await found()).problems).toEqual(['time 6']);
  });

  it('finds each column that is not what the line says', async () => {
    await damage(`
      update eventlog.events set type = 'test.other' where position = 1;
      update eventlog.events set actor = 'api_key:2' where position = 2;
      update eventlog.events set resource = 'test:2' where position = 3;
      update eventlog.events set event_id = gen_random_uuid() where position = 4;
      update eventlog.events set stream = 'test-elsewhere' where position = 9;
      update eventlog.events set recorded_at = recorded_at + interval '1 microsecond'
        where position = 10`);
    const { problems } = await found();
    expect(problems.filter((problem) => problem.startsWith('column'))).toEqual(
      [1, 2, 3, 4, 9, 10].map((position) => `column ${position}`),
    );
  });

  it('finds a line that was edited', async () => {
    const line = await lineOf(2);
    await setLine(2, canonicalJson({ ...line, position: '3' } as never));
    const { problems, details } = await found();
    expect(problems).toEqual(['column 2']);
    expect(details).toBe('position is 2, the line says 3');
  });

  it('finds a line that is not canonical, not a line, or not JSON', async () => {
    const line = await lineOf(2);
    await setLine(2, JSON.stringify(line, null, 1));
    await setLine(3, canonicalJson({ ...(await lineOf(3)), extra: 1 } as never));
    await setLine(4, 'null');
    await setLine(5, '{"half":');
    await setLine(6, canonicalJson({ ...(await lineOf(6)), actor: null } as never));
    const { code, problems } = await found();
    expect(code).toBe(1);
    expect(problems.filter((problem) => problem.startsWith('line'))).toEqual(
      [2, 3, 4, 5, 6].map((position) => `line ${position}`),
    );
  });

  it('finds a personal value that was altered, without telling it', async () => {
    const forged = Buffer.from(JSON.stringify(['salt', 'note', 'forged'])).toString('base64url');
    await damage(
      `update eventlog.event_personal set identity = '"${forged}"' where position = 4;
       update eventlog.event_personal set network = 'no list' where position = 5;
       update eventlog.event_personal set content = network where position = 6`,
    );
    const { problems, details, stderr } = await found();
    // The value of 6 stands in another column, and was committed all the same.
    expect(problems).toEqual(['disclosure 4', 'disclosure 5']);
    expect(details + stderr).not.toContain(forged);
  });

  it('finds personal values beside another event, or none', async () => {
    await damage(`
      update eventlog.event_personal set position = 2 where position = 1;
      update eventlog.event_personal set position = 99 where position = 8;
      update eventlog.event_personal set position = null where position = 9`);
    expect((await found()).problems).toEqual(['disclosure 2', 'disclosure 99', 'disclosure null']);
  });

  it('finds a name that was altered, whose it is not, or whose event is gone', async () => {
    await damage(`update eventlog.subject_names set name = 'forged' where subject = '${SUBJECT}'`);
    expect((await found()).problems).toEqual(['name 5']);
    await damage(`
      update eventlog.subject_names set name = 'shown', subject = 'test:8'
      where subject = '${SUBJECT}'`);
    expect((await found()).problems).toEqual(['disclosure 5', 'name null', 'name null']);
    await damage(`
      update eventlog.subject_names set subject = '${SUBJECT}',
        disclosures = jsonb_build_object('nonsense', '"x"')`);
    expect((await found()).problems[0]).toBe('disclosure null');
  });

  it('finds a name with a disclosure that its event did not commit', async () => {
    await damage(`
      update eventlog.subject_names
      set disclosures = (select jsonb_object_agg(key, '"Zm9yZ2Vk"') from jsonb_each(disclosures))`);
    expect((await found()).problems).toContain('disclosure 5');
  });

  it('finds an index of mail domains that is not that of the lines', async () => {
    await damage(`
      delete from eventlog.event_mail_domains where position = 6;
      insert into eventlog.event_mail_domains values (4, 7), (4, 8), (4, 99)`);
    const { problems, details } = await found();
    expect(problems).toEqual(['mail_domain 6', 'mail_domain 7', 'mail_domain 8', 'mail_domain 99']);
    expect(details).toContain('the line has [3], the index [3,4]');
  });

  it('finds that the end is missing which a read model has seen', async () => {
    await damage(`
      insert into projection_checkpoints (name, version, position) values ('seen', 1, 10);
      delete from eventlog.event_personal where position = 10;
      delete from eventlog.events where position = 10`);
    const { problems, stderr } = await found();
    expect(problems).toEqual(['head 9']);
    expect(stderr).toContain('a read model has applied the log to 10');
  });

  it('counts every problem, and lists the first hundred', async () => {
    const log = await database.openLog();
    const events = Array.from({ length: 200 }, () => anEvent());
    await log.append({ stream: 'test-more', expected: 'none', events });
    await damage("update eventlog.events set type = 'test.other' where position > 10");
    const { problems, stderr } = await found();
    expect(problems).toHaveLength(100);
    expect(stderr).toMatch(/^damaged: column at position 11: .* \(the first of 200\)\n$/);
  });
});

describe('findings', () => {
  it('name the lowest position of each class, whichever was found first', () => {
    const findings = openFindings();
    findings.add('name', null, 'a');
    findings.add('disclosure', 9n, 'b');
    findings.add('disclosure', 2n, 'c');
    expect(findings.firstByClass().map(({ first, count }) => [first.position, count])).toEqual([
      ['2', 2],
      [null, 1],
    ]);
  });
});
