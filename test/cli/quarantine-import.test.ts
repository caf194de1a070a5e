import { once } from 'node:events';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import http from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { forEachBounded } from '../../src/cli/bounded.ts';
import { findFiles, nothingLeftOut } from '../../src/cli/mail-files.ts';
import { findMessages, type MessageRange } from '../../src/cli/mbox.ts';
import { issueApiKey } from '../../src/secret-text.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import {
  callerOf,
  cuttingProxy,
  killStarted,
  mailguard,
  type Surroundings,
  startMailguard,
  temporary,
  until,
} from './support.ts';

const MESSAGE_BYTES_MAX = 20_000;

vi.setConfig({ testTimeout: 60_000 });

afterEach(killStarted);

let t: TestGateway;
const root = temporary();
beforeAll(async () => {
  t = await startTestGateway({ config: { messageBytesMax: MESSAGE_BYTES_MAX } });
});
afterAll(() => t.close());

/** A new folder with these files; a name may have folders in it. */
function folderOf(files: Readonly<Record<string, string | Buffer>>): string {
  const folder = mkdtempSync(join(root, 'mails-'));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(folder, name, '..'), { recursive: true });
    writeFileSync(join(folder, name), text, 'latin1');
  }
  return folder;
}

let names = 0;
/** A mail that is like no other. */
function mailOf(fields: readonly string[] = ['From: a@example.org', 'To: b@example.com']): string {
  names += 1;
  return `${[...fields, `Subject: import ${names}`].join('\r\n')}\r\n\r\nHello ${names}.\r\n`;
}
const mails = (count: number) =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`${1_000 + i}.eml`, mailOf()]));
const subjectOf = (mail: string) => /Subject: (.*)\r/.exec(mail)?.[1] ?? '';

type Summary = Readonly<{
  imported: number;
  already_there: number;
  refused: number;
  refusals: readonly Readonly<{
    path: string;
    number: number | null;
    reason: string;
    why: string;
  }>[];
  refused_by_reason: Readonly<Record<string, number>>;
  left_out: Readonly<Record<string, number>>;
  messages_per_second: number;
  stopped: string | null;
}>;

async function importing(argv: readonly string[], around: Surroundings = {}) {
  const env = around.env ?? callerOf(t);
  const ran = await mailguard(['quarantine', 'import', '--json', ...argv], { ...around, env });
  return { ...ran, told: (ran.stdout === '' ? {} : JSON.parse(ran.stdout)) as Summary };
}

type Item = Readonly<{
  id: string;
  sender: string;
  recipients: readonly string[];
  subject: string;
  score: number | null;
  reason: string;
}>;

async function heldBySubject(subject: string, gateway = t): Promise<Item[]> {
  const query = new URLSearchParams({ subject, limit: '1000' }).toString();
  return (await gateway.send('GET', `/mail/quarantine?${query}`)).body.data;
}
const bodyOf = async ({ id }: Item) =>
  (await t.send('GET', `/mail/quarantine/messages/${id}/body`)).text;

/** The one message that was imported from this mail. */
async function importOne(mail: string, options: readonly string[] = []): Promise<Item> {
  const { told } = await importing([folderOf({ 'one.eml': mail }), ...options]);
  expect(told).toMatchObject({ imported: 1, refused: 0, refusals: [] });
  const [item, ...others] = await heldBySubject(subjectOf(mail));
  expect(others).toEqual([]);
  return item as Item;
}

describe('quarantine import', () => {
  it('imports every mail of a folder once, and nothing when it is run again', async () => {
    const files = { ...mails(5), 'sub/deeper/x.eml': mailOf() };
    const folder = folderOf(files);
    const { code, told } = await importing([folder]);
    expect(code).toBe(0);
    expect(told).toMatchObject({ imported: 6, already_there: 0, refused: 0, stopped: null });
    for (const mail of Object.values(files)) {
      const [item] = await heldBySubject(subjectOf(mail));
      expect(await bodyOf(item as Item)).toBe(mail);
    }
    const again = await importing([folder, join(folder, 'sub')]);
    expect(again.told).toMatchObject({ imported: 0, already_there: 7, refused: 0 });
    for (const mail of Object.values(files)) {
      expect(await heldBySubject(subjectOf(mail))).toHaveLength(1);
    }
  });

  it('tells people what was refused, and why', async () => {
    const folder = folderOf({ ...mails(2), 'empty.eml': '', 'no\u001bmail': 'just text\n' });
    const argv = ['quarantine', 'import', folder];
    const { code, stdout } = await mailguard(argv, { env: callerOf(t) });
    expect(code).toBe(1);
    expect(stdout).toMatch(/^FILE +REFUSED +WHY\n/);
    expect(stdout).toMatch(/empty\.eml +empty +there is nothing in it\n/);
    expect(stdout).toMatch(/no\ufffdmail +not_a_message +it is no mail/);
    expect(stdout).toMatch(/Refused: 1 empty, 1 not_a_message\.\n/);
    expect(stdout).toMatch(
      /2 imported, 0 already there, 2 refused; \d+\.\d s, \d+ messages?\/s\.\n$/,
    );
  });

  it('shows the first 20 refusals to people, and all of them in JSON', async () => {
    const empty = Object.fromEntries(Array.from({ length: 25 }, (_, i) => [`${100 + i}`, '']));
    const folder = folderOf(empty);
    const argv = ['quarantine', 'import', folder];
    const { stdout } = await mailguard(argv, { env: callerOf(t) });
    expect(stdout.match(/there is nothing in it/g)).toHaveLength(20);
    expect(stdout).toContain('The first 20; --json has all of them.');
    const { code, told } = await importing([folder]);
    expect(code).toBe(1);
    expect(told.refusals).toHaveLength(25);
    expect(told.refused_by_reason).toEqual({ empty: 25 });
  });

  it('refuses what is too large without reading it, at exactly the limit of the gateway', async () => {
    const head = 'From: a@example.org\r\nTo: b@example.com\r\nSubject: exactly\r\n\r\n';
    const exact = head + 'x'.repeat(MESSAGE_BYTES_MAX - head.length);
    const folder = folderOf({ 'exact.eml': exact, 'over.eml': `${exact}x`, 'huge.eml': exact });
    truncateSync(join(folder, 'huge.eml'), 20 * 2 ** 30);
    const { told } = await importing([folder]);
    expect(told.imported).toBe(1);
    expect(told.refused_by_reason).toEqual({ payload_too_large: 2 });
    expect(told.refusals[0]?.why).toBe('21,474,836,480 bytes; the gateway takes at most 20,000');
  });

  it('goes on after a file that cannot be read', async () => {
    const folder = folderOf(mails(2));
    chmodSync(join(folder, '1000.eml'), 0o000);
    // Root may read everything that can be read at all.
    const unreadable = process.getuid?.() === 0 ? ['/proc/self/clear_refs'] : [];
    const { told } = await importing([folder, ...unreadable]);
    expect(told.refused_by_reason).toEqual({ unreadable: 1 });
    expect(told.refusals[0]?.why).toMatch(/EACCES|EINVAL/);
    expect(told.imported).toBe(unreadable.length + 1);
  });

  it('walks folders in order, and leaves out what is hidden, linked or no file', async () => {
    const folder = folderOf({ 'b/2': 'x', 'b/1': 'x', a: 'x', c: 'x', '.git/x': '', '.x': '' });
    symlinkSync('/etc', join(folder, 'link'));
    symlinkSync(folder, join(folder, 'b', 'loop'));
    const socket = createServer().listen(join(folder, 'socket'));
    await once(socket, 'listening');
    const leftOut = nothingLeftOut();
    const found: string[] = [];
    for await (const { path } of findFiles([folder], leftOut)) found.push(path);
    socket.close();
    expect(found).toEqual(['a', 'b/1', 'b/2', 'c'].map((name) => join(folder, name)));
    expect(leftOut).toEqual({ hidden: 2, links: 2, special: 1, too_deep: 0 });
  });

  it('says how much there is to come to a person who watches', async () => {
    const folder = folderOf(mails(60));
    const slow = await stubbornProxy(t.url, { delayMs: 25 });
    const env = { ...callerOf(t), MAILGUARD_URL: slow.url };
    const argv = ['quarantine', 'import', '--concurrency=1', folder];
    const { code, stderr } = await mailguard(argv, { env, watched: true });
    slow.close();
    expect(code).toBe(0);
    expect(stderr).toMatch(/Importing {2}\[[#.]{24}\] +\d+% \d+ {2}\d+\/s/);
  });
});

describe('the envelope of an imported mail', () => {
  it.each([
    [
      'Delivered-To',
      ['To: x@example.com', 'X-Original-To: y@example.com', 'Delivered-To: z@e.com'],
      'z@e.com',
    ],
    ['else X-Original-To', ['To: x@example.com', 'X-Original-To: y@example.com'], 'y@example.com'],
    ['else To', ['To: "X, Y" <x@example.com>,\r\n (aside) Z <z@e.com>'], 'x@example.com z@e.com'],
    ['also of a group', ['To: us: x@e.com, z@e.com;'], 'x@e.com z@e.com'],
    ['without what cannot be one', ['Delivered-To: root', 'To: a@b..c, x@e.com'], 'x@e.com'],
    ['the first of two fields', ['Delivered-To: z@e.com', 'Delivered-To: y@e.com'], 'z@e.com'],
  ])('has the recipients of %s', async (_, fields, recipients) => {
    const item = await importOne(mailOf(['From: a@example.org', ...fields]));
    expect(item.recipients.join(' ')).toBe(recipients);
  });

  it.each([
    ['Return-Path', ['From: a@example.org', 'Return-Path: <r@example.org>'], 'r@example.org'],
    ['else From', ['From: "R" <r@example.org>, <s@example.org>'], 'r@example.org'],
    ['none for a notice', ['From: mailer@example.org', 'Return-Path: <>'], ''],
    ['From, when Return-Path is no address', ['From: a@b.c', 'Return-Path: <root>'], 'a@b.c'],
    ['none, when it says nothing', ['Date: today'], ''],
  ])('has the sender of %s', async (_, fields, sender) => {
    const item = await importOne(mailOf([...fields, 'To: b@example.com']));
    expect(item).toMatchObject({ sender, score: null, reason: 'unscanned' });
  });

  it('is what the options say, whatever the mail says', async () => {
    const mail = mailOf([
      'From: a@b.c',
      'Delivered-To: z@e.com',
      'X-Spam-Score: 99',
      'X-Spam: Yes',
    ]);
    const options = ['--recipient', 'one@example.com', '--recipient=zwei@bücher.example'];
    const more = ['--sender', '<>', '--score', '-1.5', '--reason', 'policy'];
    expect(await importOne(mail, [...options, ...more])).toMatchObject({
      sender: '',
      recipients: ['one@example.com', 'zwei@xn--bcher-kva.example'],
      score: -1.5,
      reason: 'policy',
    });
    // Another envelope makes it another message.
    const { told } = await importing([folderOf({ x: mail }), '--recipient', 'b@example.com']);
    expect(told).toMatchObject({ imported: 1, already_there: 0 });
  });

  it('is needed: a mail for nobody is refused', async () => {
    const { told } = await importing([
      folderOf({ x: mailOf(['From: a@b.c', 'To: undisclosed-recipients:;']) }),
    ]);
    expect(told.refusals).toMatchObject([{ reason: 'no_recipient', number: null }]);
  });

  it('takes nothing for an envelope that is written in the body', async () => {
    const mail = `${mailOf(['From: a@b.c'])}To: b@example.com\r\n`;
    expect((await importing([folderOf({ x: mail })])).told.refused).toBe(1);
  });
});

describe('a mailbox file', () => {
  const FROM = 'From a@example.org Thu Aug 22 12:36:23 2002\n';
  const unix = (mail: string) => mail.replaceAll('\r\n', '\n');

  it('is the messages in it, as they were before they were put into it', async () => {
    const plain = [mailOf(), mailOf(), mailOf()].map(unix);
    const quoting = `${unix(mailOf())}\n>From here on, all is quoted.\n>>From there\n> From\n`;
    const mbox = [...plain, quoting].map((mail) => `${FROM}${mail}\n`).join('');
    const { told } = await importing([folderOf({ mbox })]);
    expect(told).toMatchObject({ imported: 4, refused: 0 });
    for (const mail of plain) {
      const [item] = await heldBySubject(subjectOf(mail.replaceAll('\n', '\r\n')));
      expect(await bodyOf(item as Item)).toBe(mail);
    }
    const [item] = await heldBySubject(/Subject: (.*)\n/.exec(quoting)?.[1] ?? '');
    expect(await bodyOf(item as Item)).toBe(
      quoting.replace('\n>From', '\nFrom').replace('>>From', '>From'),
    );
  });

  it('with one message is that message, without the line before it and otherwise untouched', async () => {
    const mail = `${mailOf()}\r\n>From the depths\r\n\r\nFrom a friend on Sunday at 10:00\r\n\r\n`;
    const { told } = await importing([
      folderOf({ x: `From me Thu Aug 22 12:36:23 2002\r\n${mail}` }),
    ]);
    expect(told).toMatchObject({ imported: 1, refused: 0 });
    const [item] = await heldBySubject(subjectOf(mail));
    expect(await bodyOf(item as Item)).toBe(mail);
  });

  it('names the message that is refused', async () => {
    const large = `${unix(mailOf())}${'x'.repeat(MESSAGE_BYTES_MAX)}\n`;
    const nobody = unix(mailOf(['From: a@b.c']));
    const mbox = [unix(mailOf()), large, nobody].map((mail) => `${FROM}${mail}\n`).join('');
    const { told } = await importing([folderOf({ mbox }), '--concurrency', '1']);
    expect(told.imported).toBe(1);
    expect(told.refusals).toMatchObject([
      { number: 2, reason: 'payload_too_large' },
      { number: 3, reason: 'no_recipient' },
    ]);
  });

  const rangesOf = async (text: string | Buffer): Promise<MessageRange[]> => {
    const bytes = Buffer.from(text as string);
    const read = async (start: number, end: number) => bytes.subarray(start, end);
    const ranges: MessageRange[] = [];
    for await (const range of findMessages({ size: bytes.length, read })) ranges.push(range);
    return ranges;
  };

  it.each([
    ['CRLF', `${FROM}A: 1\n\n${FROM}B: 2\n`.replaceAll('\n', '\r\n')],
    [
      'a sender without a domain',
      `${FROM}A: 1\n\nFrom MAILER-DAEMON Fri Jul  8 12:08:34 2011\nB: 2\n`,
    ],
    ['the sender of a mail client', `${FROM}A: 1\n\nFrom - Fri Jul  8 12:08:34 2011\nB: 2\n`],
  ])('is split with %s', async (_, text) => expect(await rangesOf(text)).toHaveLength(2));

  it.each([
    ['a line without an empty one before it', `${FROM}A: 1\n\nx\n${FROM}B: 2\n`],
    ['a line without a date', `${FROM}A: 1\n\nFrom b@example.org with love\nB: 2\n`],
    ['a line without a field behind it', `${FROM}A: 1\n\n${FROM}\nhello\n`],
    ['a file that does not begin with one', `A: 1\n\n${FROM}B: 2\n`],
  ])('is not split at %s', async (_, text) => {
    expect(await rangesOf(text)).toMatchObject([{ number: null }]);
  });

  it('is split wherever the windows end in which it is read', async () => {
    for (let shift = -120; shift <= 8; shift += 1) {
      const first = `A: 1\n\n${'x'.repeat(2 ** 20 + shift - 6)}\n`;
      const text = `${FROM}${first}\n${FROM}B: 2\n\n${FROM}C: 3\n\n`;
      const ranges = await rangesOf(text);
      expect(ranges.map(({ start, end }) => text.slice(start, end))).toEqual([
        first,
        'B: 2\n',
        'C: 3\n',
      ]);
    }
  });
});

describe('an import that is disturbed', () => {
  it('waits when it is told to, and does not try for ever', async () => {
    const folder = folderOf(mails(3));
    const proxy = await stubbornProxy(t.url, { refusals: 5 });
    const env = { ...callerOf(t), MAILGUARD_URL: proxy.url };
    const pauses: number[] = [];
    const pause = async (ms: number) => void pauses.push(ms);
    const { code, told } = await importing([folder], { env, pause });
    expect({ code, imported: told.imported }).toEqual({ code: 0, imported: 3 });
    expect(pauses.every((ms) => ms === 7_000)).toBe(true);
    proxy.refuse(Number.POSITIVE_INFINITY);
    const hopeless = await importing([folderOf(mails(40))], { env, pause });
    expect(hopeless.code).toBe(1);
    expect(hopeless.told).toMatchObject({ imported: 0, refused: 0 });
    expect(hopeless.told.stopped).toBe('rate_limited: Wait., also after 10 tries');
    proxy.close();
  });

  it('tries again when a connection is lost, and makes no second copy', async () => {
    const files = mails(6);
    const proxy = await cuttingProxy(t.url, [1e6, 0, 100, 0]);
    const env = { ...callerOf(t), MAILGUARD_URL: proxy.url };
    const { code, told } = await importing([folderOf(files), '--concurrency', '2'], { env });
    proxy.close();
    expect(code).toBe(0);
    expect(told.imported + told.already_there).toBe(6);
    for (const mail of Object.values(files)) {
      expect(await heldBySubject(subjectOf(mail))).toHaveLength(1);
    }
  });

  it('ends when the gateway stays away, and says what to do', async () => {
    const proxy = await stubbornProxy(t.url, { dieAfter: 4 });
    const env = { ...callerOf(t), MAILGUARD_URL: proxy.url };
    const pauses: number[] = [];
    const pause = async (ms: number) => void pauses.push(ms);
    const argv = [folderOf(mails(30)), '--concurrency', '1'];
    const { code, stderr, told } = await importing(argv, { env, pause });
    expect(code).toBe(2);
    expect(told).toMatchObject({ imported: 3, refused: 0 });
    expect(told.stopped).toContain('cannot be reached');
    expect(stderr).toContain('Run it again: nothing is imported twice.');
    expect(pauses).toEqual([500, 1_000, 2_000, 4_000, 8_000]);
  });

  it('outlives a restart of the gateway', async () => {
    const port = await freePort();
    const config = { dataDir: join(temporary(), 'data'), port };
    const first = await startTestGateway({ config });
    const files = mails(150);
    const env = callerOf(first);
    const done = importing([folderOf(files)], { env, pause: (ms) => sleep(ms) });
    await until(async () => (await heldBySubject('import', first)).length >= 20);
    const second = await first.restart();
    const { code, told } = await done;
    expect({ code, refused: told.refused }).toEqual({ code: 0, refused: 0 });
    const subjects = (await heldBySubject('import', second)).map(({ subject }) => subject);
    expect(subjects.sort()).toEqual(Object.values(files).map(subjectOf).sort());
    await second.close();
  });

  it('leaves each message whole or not at all when it is killed, and is finished by a second run', async () => {
    const key = await t.createKey({ scope: 'full-admin' });
    const files = mails(200);
    const folder = folderOf(files);
    const { child, ended } = startMailguard(['quarantine', 'import', folder], callerOf(t, key.key));
    const [subject = ''] = Object.values(files).map(subjectOf);
    await until(async () => (await heldBySubject(subject)).length === 1);
    await sleep(50);
    child.kill('SIGKILL');
    await ended;
    const { code, told } = await importing([folder], { env: callerOf(t, key.key) });
    expect(code).toBe(0);
    expect(told.already_there).toBeGreaterThan(0);
    expect(told.imported).toBeGreaterThan(0);
    expect(told.imported + told.already_there).toBe(200);
    for (const mail of Object.values(files)) {
      const [item, ...others] = await heldBySubject(subjectOf(mail));
      expect(others).toEqual([]);
      expect(await bodyOf(item as Item)).toBe(mail);
    }
  });

  it('says how far it came when it is interrupted', async () => {
    const interrupted = new AbortController();
    const proxy = await stubbornProxy(t.url, {
      onRequest: (requests) => requests === 10 && interrupted.abort(),
    });
    const env = { ...callerOf(t), MAILGUARD_URL: proxy.url };
    const argv = [folderOf(mails(200)), '--concurrency', '1'];
    const { code, told } = await importing(argv, { env, signal: interrupted.signal });
    proxy.close();
    expect(code).toBe(130);
    // The first request only asked for the limit.
    expect(told).toMatchObject({ imported: 8, refused: 0, stopped: 'interrupted' });
  });
});

describe('an import that cannot begin', () => {
  it.each([
    [[], 'DIR|FILE… is missing'],
    [['/nowhere/at/all'], 'ENOENT'],
    [['/dev/null'], '/dev/null is neither a folder nor a file'],
    [['.', '--concurrency', '65'], '--concurrency takes 1 to 64'],
    [['.', '--concurrency', '0'], '--concurrency takes 1 to 64'],
    [['.', '--score', 'high'], '--score takes a number'],
    [['.', '--reason', 'dislike'], '--reason is one of spam, phishing'],
    [['.', '--recipient', 'nobody'], '"nobody" is no mail address'],
    [['.', '--sender', 'a b@c.d'], '"a b@c.d" is no mail address'],
    [['.', '--recipients', 'a@b.c'], 'did you mean --recipient?'],
  ])('says what is wrong with %j', async (argv, hint) => {
    const { code, stdout, stderr } = await importing(argv);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(hint);
  });

  it('says that there is no gateway, at once', async () => {
    const env = { ...callerOf(t), MAILGUARD_URL: `http://127.0.0.1:${await freePort()}` };
    const { code, stdout, stderr } = await importing([folderOf(mails(1))], { env });
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain('ECONNREFUSED');
  });

  it.each(['read-only', 'quarantine-only'])(
    'says that a %s key is not allowed to',
    async (scope) => {
      const { key } = await t.createKey({ scope });
      const { code, stderr } = await importing([folderOf(mails(1))], { env: callerOf(t, key) });
      expect(code).toBe(1);
      expect(stderr).toContain('scope_forbidden');
    },
  );

  it('says that a key is none', async () => {
    const { code, stderr } = await importing([root], { env: callerOf(t, issueApiKey()) });
    expect(code).toBe(1);
    expect(stderr).toContain('unauthorized');
  });

  it('imports for its own mail domain alone with the key of a domain-admin', async () => {
    const { name } = await t.createDomain();
    const { key } = await t.createKey({ scope: 'domain-admin', mail_domain: name });
    const own = mailOf(['From: a@b.c', `To: x@${name}`]);
    const folder = folderOf({ own, foreign: mailOf(['From: a@b.c', 'To: x@example.net']) });
    const { told } = await importing([folder], { env: callerOf(t, key) });
    expect(told).toMatchObject({ imported: 1, refused_by_reason: { scope_forbidden: 1 } });
  });
});

describe('work within bounds', () => {
  it('has no more under way than is allowed, and a heavy item alone', async () => {
    let [count, weight, countMax, weightMax] = [0, 0, 0, 0];
    const items = [1, 1, 1, 9, 1, 1, 5, 5, 1, 1, 1, 1, 1, 1];
    const bounds = { concurrency: 3, weigh: (item: number) => item, weightMax: 6 };
    await forEachBounded(items, bounds, async (item) => {
      [count, weight] = [count + 1, weight + item];
      countMax = Math.max(countMax, count);
      if (count > 1) weightMax = Math.max(weightMax, weight);
      await sleep(5);
      [count, weight] = [count - 1, weight - item];
    });
    expect({ countMax, weightMax }).toEqual({ countMax: 3, weightMax: 6 });
  });
});

type Stubbornness = Readonly<{
  refusals?: number;
  delayMs?: number;
  dieAfter?: number;
  onRequest?: (requests: number) => unknown;
}>;

/** Before a gateway: answers 429 so many times, passes on slowly, or is gone after so many requests. */
async function stubbornProxy(
  target: string,
  { refusals = 0, delayMs = 0, dieAfter = Infinity, onRequest }: Stubbornness,
) {
  let left = refusals;
  let requests = 0;
  const { hostname, port } = new URL(target);
  const server = http.createServer(async (request, response) => {
    requests += 1;
    onRequest?.(requests);
    if (requests === dieAfter) server.close();
    const isAnnounced = Number(request.headers['content-length']) > 2 ** 40;
    if (!isAnnounced && left > 0) {
      left -= 1;
      request.resume();
      response.writeHead(429, { 'Retry-After': '7', 'Content-Type': 'application/json' });
      response.end(JSON.stringify({ data: null, error: 'rate_limited', message: 'Wait.' }));
      return;
    }
    const isLast = requests >= dieAfter;
    await sleep(delayMs);
    const { method, headers, url: path } = request;
    const sent = http.request({ hostname, port, method, headers, path, agent: false });
    sent.on('response', (answer) => {
      const { statusCode = 0, headers: given } = answer;
      response.writeHead(statusCode, isLast ? { ...given, connection: 'close' } : given);
      answer.pipe(response);
    });
    sent.on('error', () => response.destroy());
    response.on('close', () => sent.destroy());
    sent.flushHeaders();
    request.pipe(sent);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    refuse: (times: number) => {
      left = times;
    },
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
