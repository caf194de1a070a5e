import { once } from 'node:events';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { type DeliveryOptions, deliver } from '../../src/integrations/smtp.ts';
import { formatSmtpTarget, parseSmtpTarget } from '../../src/integrations/smtp-target.ts';
import {
  type AwkwardSmtp,
  close,
  depending,
  drip,
  endless,
  type Stage,
  type Step,
  say,
  sayAndClose,
  silent,
  startAwkwardSmtp,
} from '../support/awkward-smtp.ts';
import {
  type SmtpSink,
  type SmtpSinkOptions,
  smtpError,
  startSmtpSink,
} from '../support/smtp-sink.ts';

const MIB = 1_048_576;
const TIMEOUTS = { connectMs: 2_000, greetingMs: 2_000, replyMs: 2_000, dataReplyMs: 2_000 };
/** For servers that say nothing in time. */
const BRIEF = { connectMs: 100, greetingMs: 100, replyMs: 100, dataReplyMs: 100 };

const servers: { stop: () => Promise<void> }[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop();
});
const sink = async (options: SmtpSinkOptions = {}): Promise<SmtpSink> => {
  const started = await startSmtpSink(options);
  servers.push(started);
  return started;
};
const awkward = async (script: Partial<Record<Stage, Step>> = {}): Promise<AwkwardSmtp> => {
  const started = await startAwkwardSmtp(script);
  servers.push(started);
  return started;
};
/** A port that nobody listens on. */
async function nobody() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return { host: '127.0.0.1', port };
}

const MESSAGE = 'Subject: hello\r\n\r\nGood day.\r\n';

async function* chunks(...parts: readonly (Uint8Array | string)[]) {
  for (const part of parts) yield Buffer.from(part);
}

type Given = Partial<DeliveryOptions> & {
  from?: string;
  to?: readonly string[];
  message?: AsyncIterable<Uint8Array>;
};

async function send(targets: readonly { host: string; port: number }[], given: Given = {}) {
  const { from = 'a@example.org', to = ['b@example.net'], message, ...options } = given;
  const open = async () => message ?? chunks(MESSAGE);
  const settings = { name: 'gateway.test', timeouts: TIMEOUTS, ...options };
  return (await deliver(targets, { from, to }, open, settings)).recipients;
}

const at = formatSmtpTarget;

describe('a server that takes the message', () => {
  it('gets envelope and bytes, and each recipient is accepted in the order of the envelope', async () => {
    const server = await sink();
    const to = ['z@example.net', 'a@example.net', 'm@example.net'];
    expect(await send([server], { to })).toEqual(
      to.map((address) => ({
        address,
        outcome: 'accepted',
        code: 250,
        reply: expect.stringMatching(/^250 /),
        server: at(server),
      })),
    );
    const [message] = server.messages;
    expect(message).toMatchObject({ from: 'a@example.org', to, isSecure: false });
    expect(message?.raw.toString()).toBe(MESSAGE);
    expect(message?.parameters).toEqual({ BODY: '8BITMIME' });
  });

  it('gets an odd address as it is', async () => {
    const server = await awkward();
    await send([server], { to: ['"o \\"d>d"@example.net'] });
    expect(server.lines).toContain('RCPT TO:<"o \\"d>d"@example.net>');
  });

  it('gets the null sender as such', async () => {
    const server = await awkward();
    await send([server], { from: '' });
    expect(server.lines).toContain('MAIL FROM:<> BODY=8BITMIME');
  });

  it('gets what is to stand before the message', async () => {
    const server = await sink();
    await send([server], { prepend: 'Received: by us\r\nX-Ours: 1\r\n' });
    expect(server.messages[0]?.raw.toString()).toBe(`Received: by us\r\nX-Ours: 1\r\n${MESSAGE}`);
  });

  it('is the only one that is asked', async () => {
    const [first, second] = [await sink(), await awkward()];
    await send([first, second]);
    expect(second.connections()).toBe(0);
  });

  it('is told good-bye', async () => {
    const server = await awkward();
    await send([server]);
    await expect.poll(() => server.lines.at(-1)).toBe('QUIT');
    await expect.poll(server.open).toBe(0);
  });

  it('may know no EHLO', async () => {
    const server = await awkward({ ehlo: say('502 what?') });
    expect(await send([server])).toMatchObject([{ outcome: 'accepted' }]);
    expect(server.lines.slice(0, 3)).toEqual([
      'EHLO gateway.test',
      'HELO gateway.test',
      'MAIL FROM:<a@example.org>',
    ]);
  });

  it('may greet and answer in several lines, byte by byte', async () => {
    const server = await awkward({
      greeting: say('220-hello', '220-there', '220'),
      rcpt: drip('250-so\r\n250 what\r\n', 1),
      dot: say('250-2.0.0 taken', '250 2.0.0 for\u00a0good ✓'),
    });
    expect(await send([server])).toMatchObject([
      { outcome: 'accepted', code: 250, reply: '250 2.0.0 taken 2.0.0 for\u00a0good ✓' },
    ]);
  });
});

describe('TLS', () => {
  it('is used when it is offered, whatever the certificate', async () => {
    const server = await sink({ isTlsOffered: true });
    expect(await send([server])).toMatchObject([{ outcome: 'accepted' }]);
    expect(server.messages[0]).toMatchObject({ isSecure: true });
    expect(server.messages[0]?.raw.toString()).toBe(MESSAGE);
  });

  it('carries a large message', async () => {
    const server = await sink({ isTlsOffered: true });
    const part = Buffer.from(`${'x'.repeat(998)}\r\n`.repeat(100));
    await send([server], { message: chunks(...Array.from({ length: 40 }, () => part)) });
    expect(server.messages[0]?.raw.length).toBe(40 * part.length);
  });

  const offering = say('250-awkward', '250 STARTTLS');
  it.each<[string, Step, number]>([
    ['refused', say('454 not now'), 1],
    [
      'answered with garbage',
      (socket) => say('220 go')(socket, '') ?? say('no TLS')(socket, ''),
      2,
    ],
    ['not answered', silent, 2],
    ['closed', close, 2],
    ['never begun', say('220 go'), 2],
  ])('is done without when it is %s', async (_, starttls, connections) => {
    const server = await awkward({ ehlo: offering, starttls });
    const timeouts = { ...TIMEOUTS, replyMs: 200, greetingMs: 200 };
    expect(await send([server], { timeouts })).toMatchObject([{ outcome: 'accepted' }]);
    expect(server.connections()).toBe(connections);
  });

  it('is not fooled by what came in clear behind the offer', async () => {
    const forged = say('220 go', '250-forged', '250 SIZE 1');
    const server = await awkward({ ehlo: offering, starttls: forged });
    const timeouts = { ...TIMEOUTS, greetingMs: 200 };
    expect(await send([server], { timeouts })).toMatchObject([{ outcome: 'accepted' }]);
    expect(server.lines.filter((line) => line.startsWith('MAIL'))).toHaveLength(1);
  });
});

describe('a reply to a recipient', () => {
  it('counts for that recipient alone', async () => {
    const server = await sink({
      refuse: (address) =>
        address.startsWith('no') ? { code: 550, text: '5.1.1 no such user' } : null,
    });
    const to = ['yes@example.net', 'no@example.net', 'also@example.net'];
    expect(await send([server, await sink()], { to })).toMatchObject([
      { address: to[0], outcome: 'accepted' },
      { address: to[1], outcome: 'refused', code: 550, reply: '550 5.1.1 no such user' },
      { address: to[2], outcome: 'accepted' },
    ]);
    expect(server.messages[0]?.to).toEqual(['yes@example.net', 'also@example.net']);
  });

  it('sends those deferred to the next server, and only those', async () => {
    const first = await awkward({
      rcpt: depending({ 'later@': say('451 4.2.1 later'), 'never@': say('553 5.1.3 never') }),
    });
    const second = await sink();
    const to = ['later@example.net', 'never@example.net', 'now@example.net'];
    expect(await send([first, second], { to })).toMatchObject([
      { outcome: 'accepted', server: at(second) },
      { outcome: 'refused', code: 553, server: at(first) },
      { outcome: 'accepted', server: at(first) },
    ]);
    expect(second.messages.map(({ to }) => to)).toEqual([['later@example.net']]);
  });

  it('keeps the last one when the last server defers, too', async () => {
    const first = await awkward({ rcpt: say('451 first') });
    const second = await awkward({ rcpt: say('452 second') });
    expect(await send([first, second])).toMatchObject([
      { outcome: 'deferred', code: 452, reply: '452 second', server: at(second) },
    ]);
    expect(first.wire).toEqual([]);
  });

  it('does not lose a refusal when the connection is lost later', async () => {
    const rcpt = depending({ 'never@': say('550 never'), 'last@': close });
    const to = ['never@example.net', 'first@example.net', 'last@example.net'];
    expect(await send([await awkward({ rcpt })], { to })).toMatchObject([
      { outcome: 'refused', code: 550 },
      { outcome: 'deferred', code: null },
      { outcome: 'deferred', code: null },
    ]);
  });

  it('is one line of at most 500 characters, without control characters', async () => {
    const long = `550-${'\u0007\t\u0085'}${'ä😀'.repeat(300)}`;
    const server = await awkward({ rcpt: say(long, '550 end') });
    const [recipient] = await send([server]);
    expect(recipient?.reply).toMatch(/^550 ä😀ä😀/u);
    expect(recipient?.reply.length).toBeLessThanOrEqual(500);
    expect(Buffer.from(recipient!.reply).toString()).toBe(recipient!.reply);
    expect(recipient?.reply).not.toMatch(/\p{Cc}/u);
  });

  it('may be in no encoding at all', async () => {
    const server = await awkward({
      rcpt: (socket) => void socket.write(Buffer.from('550 caf\xe9\r\n', 'latin1')) as undefined,
    });
    expect(await send([server])).toMatchObject([{ outcome: 'refused', reply: '550 café' }]);
  });
});

describe('a refusal by 5yz', () => {
  it.each<[Stage, string]>([
    ['mail', 'MAIL'],
    ['rcpt', 'RCPT'],
    ['data', 'DATA'],
    ['dot', 'the message'],
  ])('of %s is final', async (stage) => {
    const next = await awkward();
    const server = await awkward({ [stage]: say('554 5.7.1 never') });
    expect(await send([server, next])).toMatchObject([
      { outcome: 'refused', code: 554, reply: '554 5.7.1 never', server: at(server) },
    ]);
    expect(next.connections()).toBe(0);
  });

  it('may come while the message is being sent', async () => {
    const server = await awkward({ body: say('552 5.3.4 too big') });
    expect(await send([server], { message: endlessly() })).toMatchObject([
      { outcome: 'refused', code: 552 },
    ]);
  });

  it('comes from a server with a SIZE', async () => {
    const server = await sink({ bytesMax: 1_000 });
    const message = chunks('x'.repeat(900), '\r\n', 'x'.repeat(900), '\r\n');
    expect(await send([server], { message })).toMatchObject([{ outcome: 'refused', code: 552 }]);
  });
});

async function* endlessly() {
  for (;;) yield Buffer.alloc(65_536, 'x');
}

describe('a server that takes no mail now', () => {
  it.each<[string, Partial<Record<Stage, Step>>, number | null]>([
    ['greets with 554', { greeting: say('554 no SMTP here') }, 554],
    ['greets with 421', { greeting: sayAndClose('421 too busy') }, 421],
    ['greets with garbage', { greeting: say('HTTP/1.1 400 Bad Request', '', '<html>') }, null],
    ['closes without a word', { greeting: close }, null],
    ['refuses EHLO and HELO', { ehlo: say('550 no'), helo: say('550 no') }, 550],
    ['defers EHLO', { ehlo: say('451 later') }, 451],
    ['closes at EHLO', { ehlo: close }, null],
    ['defers MAIL', { mail: say('451 later') }, 451],
    ['closes at MAIL', { mail: close }, null],
    ['closes at RCPT', { rcpt: close }, null],
    ['says 421 at RCPT', { rcpt: sayAndClose('421 bye') }, 421],
    ['says 421 before it is asked', { ehlo: say('250 awkward', '421 bye') }, 421],
    ['defers DATA', { data: say('451 later') }, 451],
    ['closes at DATA', { data: close }, null],
    ['answers 250 to DATA', { data: say('250 sure') }, 250],
    ['answers twice', { mail: say('250 ok', '250 ok') }, null],
    ['defers in the middle of the message', { body: say('451 disk full') }, 451],
    ['takes the message before its end', { body: say('250 taken') }, 250],
    ['closes in the middle of the message', { body: close }, null],
    ['defers the whole message', { dot: say('451 later') }, 451],
    ['says 421 to the whole message', { dot: sayAndClose('421 shutting down') }, 421],
  ])('because it %s is passed over', async (_, script, code) => {
    const server = await awkward(script);
    const message = script.body === undefined ? chunks(MESSAGE) : endlessly();
    expect(await send([server], { message })).toMatchObject([
      { outcome: 'deferred', code, server: at(server) },
    ]);
    const next = await awkward();
    const part = Buffer.alloc(8 * MIB, `${'x'.repeat(98)}\r\n`);
    const large = script.body === undefined ? chunks(MESSAGE) : chunks(part);
    expect(await send([server, next], { message: large })).toMatchObject([
      { outcome: 'accepted', server: at(next) },
    ]);
    await expect.poll(server.open).toBe(0);
  });

  it.each<[string, Partial<Record<Stage, Step>>]>([
    ['the greeting', { greeting: silent }],
    ['EHLO', { ehlo: silent }],
    ['MAIL', { mail: silent }],
    ['RCPT', { rcpt: silent }],
    ['DATA', { data: silent }],
    ['a reply of many slow bytes', { mail: drip('250 '.padEnd(1_000, 'x'), 10) }],
    ['a reply of many slow lines', { mail: drip('250-x\r\n'.repeat(100), 10) }],
  ])('because it is not done in time with %s is passed over', async (_, script) => {
    const server = await awkward(script);
    const next = await awkward();
    expect(await send([server], { timeouts: BRIEF })).toMatchObject([
      { outcome: 'deferred', code: null, reply: 'no answer within 100 ms', server: at(server) },
    ]);
    expect(await send([server, next], { timeouts: { ...BRIEF, replyMs: 300 } })).toMatchObject([
      { outcome: 'accepted', server: at(next) },
    ]);
  });

  it('because it says 421 is asked nothing more', async () => {
    const server = await awkward({ rcpt: say('421 bye') });
    const to = ['b@example.net', 'c@example.net'];
    const closing = { outcome: 'deferred', code: 421, reply: '421 bye' };
    expect(await send([server], { to })).toMatchObject([closing, closing]);
    expect(server.lines.filter((line) => line.startsWith('RCPT'))).toHaveLength(1);
  });

  it('because it takes the message before its last line is passed over', async () => {
    const server = await awkward({ body: say('250 taken') });
    async function* stalling() {
      yield Buffer.from(MESSAGE);
      await sleep(20);
      yield Buffer.from('more\r\n');
      await sleep(100);
    }
    expect(await send([server], { message: stalling() })).toMatchObject([
      { outcome: 'deferred', code: 250 },
    ]);
    expect(server.wire).toEqual([]);
  });

  it('because it reads no further is passed over', async () => {
    const server = await awkward({ body: (socket) => void socket.pause() as undefined });
    const timeouts = { ...TIMEOUTS, replyMs: 300 };
    expect(await send([server], { message: endlessly(), timeouts })).toMatchObject([
      { outcome: 'deferred', reply: 'no answer within 300 ms' },
    ]);
  });

  it.each<[string, Step, string]>([
    ['lines without end', endless('220-more\r\n'.repeat(1_000)), 'the reply is too long'],
    ['one line without end', endless('x'.repeat(65_536)), 'the reply is too long'],
    ['an empty line', say(''), 'this is no SMTP reply:'],
    ['ten replies', say(...Array<string>(10).fill('220 again')), 'replies that nobody asked for'],
  ])('because it sends %s is passed over', async (_, greeting, reply) => {
    const server = await awkward({ greeting });
    expect(await send([server])).toMatchObject([{ outcome: 'deferred', code: null, reply }]);
    await expect.poll(server.open).toBe(0);
  });

  it('because nobody listens is passed over', async () => {
    const [missing, next] = [await nobody(), await awkward()];
    expect(await send([missing])).toMatchObject([
      { outcome: 'deferred', code: null, reply: 'ECONNREFUSED', server: at(missing) },
    ]);
    expect(await send([missing, next])).toMatchObject([{ outcome: 'accepted', server: at(next) }]);
  });

  it('because it has no address is passed over', async () => {
    const target = { host: 'no-such-host.invalid', port: 25 };
    expect(await send([target])).toMatchObject([
      { outcome: 'deferred', code: null, server: 'no-such-host.invalid:25' },
    ]);
  });

  it('is none of no servers', async () => {
    expect(await send([])).toEqual([
      {
        address: 'b@example.net',
        outcome: 'deferred',
        code: null,
        reply: 'no server to ask',
        server: null,
      },
    ]);
  });
});

describe('the whole message sent, and no answer', () => {
  it.each<[string, Step]>([
    ['the connection is lost', close],
    ['nothing comes in time', silent],
    ['the reply does not end', endless('250-x\r\n'.repeat(1_000))],
    ['the reply is garbage', say('OK')],
    ['the reply answers something else', say('354 go on')],
  ])('is unknown when %s, and no other server is tried', async (_, dot) => {
    const [server, next] = [await awkward({ dot }), await awkward()];
    const timeouts = { ...TIMEOUTS, dataReplyMs: 300 };
    const to = ['b@example.net', 'c@example.net'];
    const unknown = { outcome: 'unknown', server: at(server), reply: expect.stringMatching(/./) };
    expect(await send([server, next], { to, timeouts })).toMatchObject([unknown, unknown]);
    expect(server.wire).toHaveLength(1);
    expect(next.connections()).toBe(0);
  });

  it('leaves those whom the server had deferred to the next one', async () => {
    const rcpt = depending({ 'later@': say('451 later') });
    const [server, next] = [await awkward({ rcpt, dot: close }), await awkward()];
    const to = ['b@example.net', 'later@example.net'];
    expect(await send([server, next], { to })).toMatchObject([
      { outcome: 'unknown', server: at(server) },
      { outcome: 'accepted', server: at(next) },
    ]);
  });

  it('never happens to a message that the server has in part', async () => {
    const server = await awkward({
      data: (socket) => {
        socket.write('354 go on\r\n', () => setTimeout(() => socket.destroy(), 20));
        return 'data';
      },
    });
    async function* stalling() {
      yield Buffer.from(MESSAGE);
      await new Promise(() => undefined);
    }
    expect(await send([server], { message: stalling() })).toMatchObject([{ outcome: 'deferred' }]);
    expect(server.wire).toEqual([]);
  });
});

describe('internationalised addresses', () => {
  it('go to a server that takes them', async () => {
    const server = await sink();
    const to = ['jörg@example.net', 'b@example.net'];
    expect(await send([server], { to })).toMatchObject([
      { outcome: 'accepted' },
      { outcome: 'accepted' },
    ]);
    expect(server.messages[0]).toMatchObject({ to, parameters: { SMTPUTF8: true } });
  });

  it('are refused, and only they, where the server does not', async () => {
    const server = await sink({ isUtf8Hidden: true });
    const to = ['jörg@example.net', 'b@example.net'];
    expect(await send([server], { to })).toMatchObject([
      { outcome: 'refused', code: null, reply: expect.stringContaining('SMTPUTF8') },
      { outcome: 'accepted' },
    ]);
    expect(server.messages[0]?.to).toEqual(['b@example.net']);
  });

  it('refuse the whole message when it is the sender who has one', async () => {
    const server = await sink({ isUtf8Hidden: true });
    expect(await send([server], { from: 'jörg@example.org' })).toMatchObject([
      { outcome: 'refused', code: null },
    ]);
    expect(server.messages).toEqual([]);
  });
});

describe('what makes it throw', () => {
  it.each<[string, Given]>([
    ['a recipient with a line end', { to: ['a@example.net>\r\nRSET'] }],
    ['a recipient with a parameter', { to: ['a@example.net> NOTIFY=NEVER'] }],
    ['a recipient that is empty', { to: [''] }],
    ['a sender with a NUL', { from: 'a\0@example.org' }],
    ['a name of two words', { name: 'gateway test' }],
    ['a header field without its end', { prepend: 'X-Ours: 1' }],
    ['a header field with a lone LF', { prepend: 'X-Ours: 1\nX: 2\r\n' }],
  ])('is %s', async (_, given) => {
    const server = await awkward();
    await expect(send([server], given)).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_ASSERTION' }),
    );
    expect(server.connections()).toBe(0);
  });

  it('is a message that cannot be opened', async () => {
    const server = await awkward();
    const open = () => Promise.reject(new Error('the spool is gone'));
    const envelope = { from: '', to: ['b@example.net'] };
    const sending = deliver([server], envelope, open, { name: 'gateway.test' });
    await expect(sending).rejects.toThrow('the spool is gone');
    expect(server.wire).toEqual([]);
    await expect.poll(server.open).toBe(0);
  });

  it('is a message that breaks off, of which no server delivers a part', async () => {
    const server = await awkward();
    async function* breaking() {
      yield Buffer.from(MESSAGE);
      throw new Error('bad sector');
    }
    await expect(send([server], { message: breaking() })).rejects.toThrow('bad sector');
    expect(server.wire).toEqual([]);
    await expect.poll(server.open).toBe(0);
  });

  it('is no message that breaks off when some recipients have it already', async () => {
    const rcpt = depending({ 'later@': say('451 later') });
    const [first, second] = [await awkward({ rcpt }), await awkward()];
    let opened = 0;
    const open = async () => {
      opened += 1;
      if (opened === 2) throw new Error('bad sector');
      return chunks(MESSAGE);
    };
    const envelope = { from: '', to: ['b@example.net', 'later@example.net'] };
    const { recipients } = await deliver([first, second], envelope, open, { name: 'gateway.test' });
    expect(recipients).toMatchObject([
      { outcome: 'accepted', server: at(first) },
      { outcome: 'deferred', reply: 'the message is not readable', server: at(second) },
    ]);
  });

  it('is a signal, before the message was sent', async () => {
    const reason = new Error('stopping');
    const server = await awkward({ mail: silent });
    await expect(send([server], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(server.connections()).toBe(0);

    const abort = new AbortController();
    const sending = send([server], { signal: abort.signal });
    await expect.poll(() => server.lines.length).toBe(2);
    abort.abort(reason);
    await expect(sending).rejects.toBe(reason);
    await expect.poll(server.open).toBe(0);
  });

  it('is no signal after it: that message is unknown', async () => {
    const abort = new AbortController();
    const rcpt = depending({ 'later@': say('451 later') });
    const server = await awkward({ rcpt, dot: silent });
    const next = await awkward();
    const to = ['b@example.net', 'later@example.net'];
    const sending = send([server, next], { to, signal: abort.signal });
    await expect.poll(() => server.wire.length).toBe(1);
    abort.abort();
    expect(await sending).toMatchObject([{ outcome: 'unknown' }, { outcome: 'deferred' }]);
    expect(next.connections()).toBe(0);
  });
});

describe('the bytes of a message', () => {
  /** What may leave: every line end a CRLF, and one at the end. */
  function normalised(bytes: Uint8Array): Buffer {
    const text = Buffer.from(bytes)
      .toString('latin1')
      .replace(/\r\n|\r|\n/g, '\r\n');
    return Buffer.from(text.endsWith('\r\n') ? text : `${text}\r\n`, 'latin1');
  }

  it.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['lone CR and LF around dots', Buffer.from('a\n.\nb\r.\rc\r\n.\nd\n.\r\ne\r.\r\nf')],
    ['a dot at once', Buffer.from('.\r\n..\r\n.x\r\n.')],
    ['a CR at the end', Buffer.from('x\r')],
    ['8-bit bytes and NUL', Buffer.from([0, 255, 254, 128, 13, 10, 0])],
    ['a line of 5,000 characters', Buffer.from(`${'y'.repeat(5_000)}\r\n`)],
    ['smuggled commands', Buffer.from('x\n.\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<b@c>\r\n')],
  ])('arrive when there is %s', async (_, bytes) => {
    const server = await awkward();
    await send([server], { message: chunks(...[...bytes].map((byte) => Buffer.from([byte]))) });
    expect(server.wire).toHaveLength(1);
    expect(server.lines.filter((line) => line.startsWith('MAIL'))).toHaveLength(1);
    const stuffed = server.wire[0]!.toString('latin1');
    expect(stuffed.replaceAll('\r\n', '')).not.toMatch(/[\r\n]/);
    const plain = stuffed.replace(/\.\r\n$/, '').replace(/(^|\r\n)\.\./g, '$1.');
    expect(plain).toBe(normalised(bytes).toString('latin1'));
  });

  it('arrive as they were, but for their line ends, whatever they are', async () => {
    const server = await sink();
    const piece = fc.oneof(
      fc.constantFrom('\r', '\n', '\r\n', '.', '.\r\n', '\r\n.\r\n', '\0', 'a').map(Buffer.from),
      fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes)),
    );
    const message = fc.array(piece, { maxLength: 30 });
    let sent = 0;
    const arrives = async (pieces: readonly Buffer[]) => {
      const from = `${sent++}@example.org`;
      const results = await send([server], { from, message: chunks(...pieces) });
      expect(results).toMatchObject([{ outcome: 'accepted' }]);
      const found = server.messages.filter((other) => other.from === from);
      expect(found.map(({ raw }) => raw)).toEqual([normalised(Buffer.concat(pieces))]);
    };
    // Many at once, as the server lets each connection wait before it greets.
    const batch = fc.array(message, { minLength: 25, maxLength: 25 });
    await fc.assert(
      fc.asyncProperty(batch, (all) => Promise.all(all.map(arrives)).then(() => undefined)),
      { numRuns: 12 },
    );
  });

  it('wait for a server that is slow to read', async () => {
    let given = 0;
    async function* large() {
      for (; given < 640; given += 1) yield Buffer.alloc(65_536, 'x');
    }
    const server = await awkward({
      body: (socket) => {
        socket.pause();
        setTimeout(() => {
          // What the sockets hold is some MiB, never the 40 of the message.
          heldBack = given;
          socket.destroy();
        }, 300);
        return undefined;
      },
    });
    let heldBack = Number.POSITIVE_INFINITY;
    await send([server], { message: large() });
    expect(heldBack).toBeLessThan(320);
  });
});

describe('host:port', () => {
  it.each([
    ['mail.example.com:25', { host: 'mail.example.com', port: 25 }],
    ['192.0.2.1:2525', { host: '192.0.2.1', port: 2525 }],
    ['[2001:db8::1]:25', { host: '2001:db8::1', port: 25 }],
  ])('%s is a target, and is written the same', (text, target) => {
    expect(parseSmtpTarget(text)).toEqual(target);
    expect(formatSmtpTarget(target)).toBe(text);
  });

  it.each([
    '',
    'mail',
    'mail:',
    'mail:0',
    'mail:65536',
    ':25',
    '[]:25',
    '2001:db8::1:25',
    '[mail]:25',
    'a b:25',
  ])('%j is none', (text) => {
    expect(() => parseSmtpTarget(text)).toThrow('host:port');
  });
});

describe('the sink', () => {
  it('can refuse the whole message, and tells what it was', async () => {
    const server = await sink({
      onMessage: ({ raw }) => {
        if (raw.includes('Good day')) throw smtpError('5.7.1 not so good', 550);
      },
    });
    expect(await send([server])).toMatchObject([
      { outcome: 'refused', code: 550, reply: '550 5.7.1 not so good' },
    ]);
    await send([server], { message: chunks('Bad day\r\n') });
    expect(await server.waitFor(1)).toHaveLength(1);
  });
});
