import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silent, startAwkwardSmtp } from '../support/awkward-smtp.ts';
import { ask } from '../support/crash.ts';
import { startTestGateway } from '../support/gateway.ts';
import { aMail, held } from '../support/mail.ts';
import {
  type Arrival,
  arrivalsOf,
  digestOf,
  doublesIn,
  downloadBody,
  forEachOf,
  handOver,
  listMail,
  type MadeMail,
  makeMail,
  readJob,
  seededRandom,
  withCrlf,
} from '../support/mail-crash.ts';
import { bootstrapKey, cleanUp, makeHome, type Program, startProgram } from '../support/program.ts';
import { type SmtpSinkOptions, startSmtpSink } from '../support/smtp-sink.ts';

const MAILS = 200;
const SEED = 20_261_122;
const JOB_MS = 50_000;
const RETRIED_MS = 15_000;

afterAll(cleanUp, 60_000);

/** A sink that notes who got what. */
async function startNoted(options: SmtpSinkOptions = {}) {
  const arrivals: Arrival[] = [];
  const sink = await startSmtpSink({
    ...options,
    async onMessage(message) {
      arrivals.push(...arrivalsOf(message.raw, message.to));
      await options.onMessage?.(message);
    },
  });
  return { sink, arrivals, server: `127.0.0.1:${sink.port}` };
}

async function until<T>(ms: number, look: () => Promise<T | null | false> | T | null | false) {
  const deadline = performance.now() + ms;
  for (;;) {
    const found = await look();
    if (found !== null && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`it did not come about in ${ms} ms`);
    await sleep(20);
  }
}

/** The program with its home, as whoever works with it sees it. */
function desk(home: string, current: () => Program) {
  const request = async (method: string, path: string, body?: unknown) => {
    const answer = await ask(current(), home, { method, path, body });
    if (answer === null) throw new Error(`${method} ${path}: the connection broke`);
    return answer;
  };
  return {
    request,
    async addDomain(name: string, backends: readonly string[]) {
      const body = { name, backend_servers: backends };
      expect((await request('POST', '/domains', body)).status).toBe(201);
    },
    async handIn(mail: MadeMail): Promise<string> {
      const answer = await handOver(current(), home, { mail });
      expect([mail.serial, mail.kind, answer?.status]).toEqual([mail.serial, mail.kind, 201]);
      return answer?.data.id;
    },
    async bulk(body: object): Promise<string> {
      const answer = await request('POST', '/mail/quarantine/bulk', body);
      expect(answer.status).toBe(202);
      return answer.data.job_id;
    },
    jobEnded: (id: string) =>
      until(JOB_MS, async () => {
        const job = await readJob(current(), home, id);
        return job.ended_at !== null && job;
      }),
    itemOf: async (id: string) => (await request('GET', `/mail/quarantine/messages/${id}`)).data,
    typesOf: async (id: string): Promise<string[]> =>
      (await request('GET', `/mail/quarantine/messages/${id}/history`)).data.map(
        ({ type }: { type: string }) => type.replace('quarantine.', ''),
      ),
  };
}

const copiesOf = (arrivals: readonly Arrival[]) =>
  arrivals.map(({ id, recipient, wireDigest }) => `${id} ${recipient} ${wireDigest}`).sort();

const wantedCopies = (mails: readonly MadeMail[], ids: ReadonlyMap<number, string>) =>
  mails
    .flatMap(({ serial, raw, to }) => {
      const digest = digestOf(withCrlf(raw));
      return to.map((recipient) => `${ids.get(serial)} ${recipient} ${digest}`);
    })
    .sort();

describe(`${MAILS} messages of every kind`, () => {
  const home = makeHome();
  const random = seededRandom(SEED);
  const domains = ['one.example', 'two.example', 'three.example', 'four.example'];
  const mails = Array.from({ length: MAILS }, (_, index) =>
    makeMail(random, { serial: index + 1, domains, bytesMax: 300_000 }),
  );
  const ids = new Map<number, string>();
  const sinks: Awaited<ReturnType<typeof startNoted>>[] = [];
  let program: Program;
  const t = desk(home, () => program);

  beforeAll(async () => {
    program = await startProgram(home);
    sinks.push(await startNoted(), await startNoted());
    for (const [index, name] of domains.entries()) {
      await t.addDomain(name, [sinks[index % 2]?.server ?? '']);
    }
  });
  afterAll(async () => {
    program.kill('SIGTERM');
    await program.ended();
    for (const { sink } of sinks) await sink.stop();
  });

  it('are of all kinds and sizes', () => {
    expect(new Set(mails.map(({ kind }) => kind)).size).toBe(6);
    expect(Math.max(...mails.map(({ raw }) => raw.length))).toBeGreaterThan(250_000);
    expect(Math.max(...mails.map(({ raw }) => raw.length))).toBeLessThan(320_000);
    expect(mails.some(({ raw }) => raw.includes('\r\n.\r\n'))).toBe(true);
    expect(mails.some(({ raw }) => raw.includes(0))).toBe(true);
    expect(mails.some(({ to }) => new Set(to.map((one) => one.split('@')[1])).size > 1)).toBe(true);
    const longest = mails.map(({ raw }) =>
      Math.max(
        ...raw
          .toString()
          .split('\n')
          .map((l) => l.length),
      ),
    );
    expect(Math.max(...longest)).toBeGreaterThan(10_000);
  });

  it('are taken in, and listed page by page, each once', async () => {
    await forEachOf(mails, async (mail) => {
      ids.set(mail.serial, await t.handIn(mail));
    });
    expect(new Set(ids.values()).size).toBe(MAILS);
    const listed = await listMail(program, home, 'state=held', 37);
    expect(listed.map(({ id }) => id).sort()).toEqual([...ids.values()].sort());
    for (const domain of domains) {
      const some = await listMail(program, home, `domain=${domain}`, 50);
      const wanted = mails.filter(({ to }) => to.some((one) => one.endsWith(`@${domain}`)));
      expect(some.map(({ id }) => id).sort()).toEqual(
        wanted.map(({ serial }) => ids.get(serial)).sort(),
      );
    }
  }, 60_000);

  it('can be downloaded byte for byte', async () => {
    await forEachOf(mails, async ({ serial, raw }) => {
      const digest = await downloadBody(program, home, ids.get(serial) ?? '');
      expect([serial, digest]).toEqual([serial, digestOf(raw)]);
    });
  }, 60_000);

  it('can be looked into, without scripts and remote content', async () => {
    const look = async ({ serial, kind }: MadeMail) => {
      const path = `/mail/quarantine/messages/${ids.get(serial)}/preview`;
      const { status, data } = await t.request('GET', path);
      expect([serial, kind, status]).toEqual([serial, kind, 200]);
      const subject = data.headers.find(({ name }: any) => /^subject$/i.test(name))?.value;
      expect(subject).toMatch(new RegExp(`^mail ${serial} `));
      if (kind !== 'multipart') return;
      expect(data.html).not.toMatch(/<script|onclick|https:\/\/tracker/);
      expect(data.attachments).toMatchObject([{ filename: 'a.pdf' }]);
    };
    await forEachOf(mails, look, 2);
  }, 60_000);

  it('are released by one job, each delivered once to each recipient, and as it was', async () => {
    const job = await t.jobEnded(await t.bulk({ action: 'release', filter: { state: 'held' } }));
    expect(job.counts).toEqual({ released: MAILS });
    const arrivals = sinks.flatMap((one) => one.arrivals);
    expect(copiesOf(arrivals)).toEqual(wantedCopies(mails, ids));
    for (const [index, { arrivals: some }] of sinks.entries()) {
      const own = domains.filter((_, at) => at % 2 === index);
      expect(some.every(({ recipient }) => own.includes(recipient.split('@')[1] ?? ''))).toBe(true);
      expect(some.length).toBeGreaterThan(MAILS / 4);
    }
  }, 60_000);

  it('would have been found to differ, had a byte or a copy been another (control)', () => {
    const [first, ...others] = sinks.flatMap((one) => one.arrivals);
    const wanted = wantedCopies(mails, ids);
    expect(copiesOf(others)).not.toEqual(wanted);
    expect(copiesOf([first!, first!, ...others])).not.toEqual(wanted);
    expect(copiesOf([{ ...first!, wireDigest: digestOf(Buffer.of()) }, ...others])).not.toEqual(
      wanted,
    );
  });
});

describe('servers that do not take everything', () => {
  const home = makeHome();
  let program: Program;
  let noted: Awaited<ReturnType<typeof startNoted>>;
  const t = desk(home, () => program);
  const asked = new Map<string, number>();
  const ids = new Map<number, string>();
  const mailFor = (serial: number, to: readonly string[]): MadeMail => ({
    ...makeMail(seededRandom(serial), { serial, domains: ['x.example'], bytesMax: 10_000 }),
    to,
  });
  const mails = [
    ...Array.from({ length: 6 }, (_, at) => mailFor(1 + at, [`later${at}@refusing.example`])),
    mailFor(7, ['now@refusing.example', 'later7@refusing.example']),
    ...Array.from({ length: 4 }, (_, at) => mailFor(8 + at, [`never${at}@refusing.example`])),
    ...Array.from({ length: 6 }, (_, at) => mailFor(12 + at, [`good${at}@refusing.example`])),
  ];
  const isNever = ({ to }: MadeMail) => to.some((one) => one.startsWith('never'));
  const isLater = ({ to }: MadeMail) => to.some((one) => one.startsWith('later'));
  let job: any;

  beforeAll(async () => {
    program = await startProgram(home);
    noted = await startNoted({
      refuse(recipient) {
        asked.set(recipient, (asked.get(recipient) ?? 0) + 1);
        if (recipient.startsWith('never')) return { code: 550, text: '5.1.1 no such user' };
        const isFirst = asked.get(recipient) === 1;
        return recipient.startsWith('later') && isFirst
          ? { code: 451, text: '4.7.1 greylisted' }
          : null;
      },
    });
    await t.addDomain('refusing.example', [noted.server]);
    for (const mail of mails) ids.set(mail.serial, await t.handIn(mail));
    job = await t.jobEnded(await t.bulk({ action: 'release', ids: [...ids.values()] }));
  }, 60_000);
  afterAll(async () => {
    program.kill('SIGTERM');
    await program.ended();
    await noted.sink.stop();
  });

  it('leave the job with an outcome for each message', () => {
    expect(job.counts).toEqual({ released: 6, under_way: 7, release_failed: 4 });
    expect(job.items.every(({ outcome }: any) => outcome !== null)).toBe(true);
  });

  it('451: the message arrives at the next try, and nobody gets it twice', async () => {
    const later = mails.filter(isLater);
    for (const { serial } of later) {
      const id = ids.get(serial) ?? '';
      await until(RETRIED_MS, async () => (await t.itemOf(id)).state === 'released');
      expect(await t.typesOf(id)).toEqual([
        'added',
        'release_requested',
        'release_started',
        'release_deferred',
        'release_started',
        'released',
      ]);
    }
    const taken = mails.filter((mail) => !isNever(mail));
    expect(copiesOf(noted.arrivals)).toEqual(wantedCopies(taken, ids));
  }, 30_000);

  it('550: the release has failed, and the message is still held', async () => {
    for (const { serial, raw } of mails.filter(isNever)) {
      const id = ids.get(serial) ?? '';
      const item = await t.itemOf(id);
      expect(item.state).toBe('release_failed');
      expect(item.deliveries).toMatchObject([{ outcome: 'refused', code: 550 }]);
      expect(await downloadBody(program, home, id)).toBe(digestOf(raw));
      expect(await t.typesOf(id)).not.toContain('release_deferred');
    }
    const listed = await listMail(program, home, 'state=release_failed');
    expect(listed).toHaveLength(mails.filter(isNever).length);
  });
});

describe('a first server that accepts and never speaks', () => {
  it('is left for the second, which gets the message once', async () => {
    const mute = await startAwkwardSmtp({ greeting: silent });
    const second = await startSmtpSink();
    // The real program waits the five minutes of RFC 5321 for a greeting.
    const timeouts = { connectMs: 1_000, greetingMs: 400, replyMs: 2_000, dataReplyMs: 2_000 };
    const t = await startTestGateway({ smtp: { timeouts } });
    try {
      const backend_servers = [`127.0.0.1:${mute.port}`, `127.0.0.1:${second.port}`];
      await t.createDomain('example.com', { backend_servers });
      const { id } = await held(t, { raw: aMail('taken over') });
      const path = `/mail/quarantine/messages/${id}/release`;
      const { status, body } = await t.send('POST', path, { body: {} });
      expect([status, body.data.state]).toEqual([200, 'released']);
      expect(body.data.deliveries[0].server).toBe(backend_servers[1]);
      expect(mute.connections()).toBe(1);
      expect(second.messages).toHaveLength(1);
      expect(second.messages[0]?.raw.toString()).toContain('Subject: taken over\r\n');
    } finally {
      await t.close();
      await second.stop();
      await mute.stop();
    }
  });
});

describe('SIGTERM', () => {
  const JOB = 60;
  const home = makeHome();
  let program: Program;
  let slow: Awaited<ReturnType<typeof startNoted>>;
  let takeMs = 0;
  const t = desk(home, () => program);
  const stop = async (): Promise<number> => {
    const begin = performance.now();
    program.kill('SIGTERM');
    expect(await program.ended()).toBe(0);
    return performance.now() - begin;
  };
  const numbered = (first: number, count: number, domain: string) =>
    Array.from({ length: count }, (_, at) =>
      makeMail(seededRandom(first + at), {
        serial: first + at,
        domains: [domain],
        bytesMax: 5_000,
      }),
    );

  beforeAll(async () => {
    program = await startProgram(home);
    slow = await startNoted({ onMessage: () => sleep(takeMs) });
    await t.addDomain('slow.example', [slow.server]);
  });
  afterAll(async () => {
    await stop();
    await slow.sink.stop();
  });

  it('in the middle of a bulk job: it goes on after the next start, and nothing comes twice', async () => {
    const ids = new Map<number, string>();
    const mails = numbered(1, JOB, 'slow.example');
    for (const mail of mails) ids.set(mail.serial, await t.handIn(mail));
    takeMs = 200;
    const job = await t.bulk({ action: 'release', ids: [...ids.values()] });
    await until(JOB_MS, () => slow.arrivals.length >= JOB / 4);
    expect(await stop()).toBeLessThan(10_000);
    const before = slow.arrivals.length;
    expect(before).toBeLessThan(JOB);
    takeMs = 0;
    program = await startProgram(home);
    const ended = await t.jobEnded(job);
    expect(ended.counts).toEqual({ released: JOB });
    expect(copiesOf(slow.arrivals)).toEqual(wantedCopies(mails, ids));
    expect(doublesIn(slow.arrivals)).toBe(0);
  }, 60_000);

  it('while a release that nobody waits for is at the server: it is recorded as it went', async () => {
    const [mail] = numbered(JOB + 1, 1, 'slow.example');
    const id = await t.handIn(mail!);
    takeMs = 1_300;
    const before = slow.arrivals.length;
    const client = new AbortController();
    const asking = fetch(`${program.url}/api/v1/mail/quarantine/messages/${id}/release`, {
      method: 'POST',
      headers: { 'X-API-Key': bootstrapKey(home) },
      signal: client.signal,
    }).catch(() => null);
    await until(JOB_MS, () => slow.arrivals.length > before);
    client.abort();
    expect(await asking).toBe(null);
    await stop();
    takeMs = 0;
    program = await startProgram(home);
    expect(await t.typesOf(id)).toEqual([
      'added',
      'release_requested',
      'release_started',
      'released',
    ]);
  }, 60_000);

  it('while a job waits for a server that does not speak: the end comes soon, the message later', async () => {
    const mute = await startAwkwardSmtp({ greeting: silent });
    await t.addDomain('mute.example', [`127.0.0.1:${mute.port}`, slow.server]);
    const [mail] = numbered(JOB + 2, 1, 'mute.example');
    const id = await t.handIn(mail!);
    const job = await t.bulk({ action: 'release', ids: [id] });
    await until(JOB_MS, () => mute.connections() === 1);
    const tookMs = await stop();
    // Container engines kill after ten seconds.
    expect(tookMs).toBeLessThan(10_000);
    await mute.stop();
    const before = slow.arrivals.length;
    program = await startProgram(home);
    // The try that was cut counts as put off, so the job need not see the next one.
    expect(['released', 'under_way']).toContain((await t.jobEnded(job)).items[0].outcome);
    await until(RETRIED_MS, async () => (await t.itemOf(id)).state === 'released');
    expect(slow.arrivals.slice(before).map((one) => one.id)).toEqual([id]);
  }, 120_000);
});
