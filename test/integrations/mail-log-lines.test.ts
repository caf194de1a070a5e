import { describe, expect, it } from 'vitest';
import { parseMailLogLine } from '../../src/integrations/mail-log-lines.ts';

const ID = 'AD78C9BC074';
const from = (program: string, text: string) =>
  parseMailLogLine(`Nov 26 12:00:08 mx postfix/${program}[123]: ${text}`);
const result = (fields: string, program = 'smtp') => from(program, `${ID}: ${fields}`);
const RELAY = 'relay=127.0.0.1[127.0.0.1]:25, delay=0.1, delays=0.1/0/0/0';
const SENT = `${RELAY}, dsn=2.0.0, status=sent (250 2.0.0 Ok)`;
const fact = {
  status: 'sent',
  dsn: '2.0.0',
  relay: '127.0.0.1[127.0.0.1]:25',
  code: 250,
  reply: '250 2.0.0 Ok',
};

describe('the head of a line', () => {
  const over = { kind: 'over', queueId: ID };
  it.each([
    ['the date of syslog', `Nov  6 12:00:08 mx postfix/qmgr[1]: ${ID}: removed`],
    ['a full host name', `Nov 26 12:00:08 mx-1.a.example postfix/qmgr[1]: ${ID}: removed`],
    ['no host', `Nov 26 12:00:08 postfix/qmgr[1]: ${ID}: removed`],
    ['RFC 3339', `2026-11-26T12:00:08.123456+00:00 mx postfix/qmgr[1]: ${ID}: removed`],
    ['RFC 3339 in UTC', `2026-11-26T12:00:08Z mx postfix/qmgr[1]: ${ID}: removed`],
    ['a date of journald', `2026-11-26T12:00:08+0100 mx postfix/qmgr[1]: ${ID}: removed`],
    ['a multi-instance', `Nov 26 12:00:08 mx postfix-out.2/qmgr[1]: ${ID}: removed`],
    ['a service of its own name', `Nov 26 12:00:08 mx postfix/relay/qmgr[1]: ${ID}: removed`],
  ])('is read with %s', (_name, line) => expect(parseMailLogLine(line)).toEqual(over));

  it('is read with a long queue id', () =>
    expect(from('qmgr', '4jZw8h4Zs8z1TwMx: removed')).toEqual({
      kind: 'over',
      queueId: '4jZw8h4Zs8z1TwMx',
    }));

  it.each([
    ['nothing', ''],
    ['another program', `Nov 26 12:00:08 mx dovecot/qmgr[1]: ${ID}: removed`],
    ['what a user says by another', `Nov 26 12:00:08 su: postfix/qmgr[1]: ${ID}: removed`],
    ['a line inside a line', `Nov 26 12:00:08 mx x[1]: postfix/qmgr[1]: ${ID}: removed`],
    ['no date', `mx postfix/qmgr[1]: ${ID}: removed`],
    ['an id that is none', 'Nov 26 12:00:08 mx postfix/qmgr[1]: NOQUEUE: removed'],
    ['an id that is too short', 'Nov 26 12:00:08 mx postfix/qmgr[1]: ABCDE: removed'],
    ['a member of every object', `Nov 26 12:00:08 mx postfix/constructor[1]: ${ID}: removed`],
    ['a word of every object', `Nov 26 12:00:08 mx postfix/postsuper[1]: ${ID}: constructor`],
    ['a total', 'Nov 26 12:00:08 mx postfix/postsuper[1]: Released from hold: 1 message'],
  ])('gives null for %s', (_name, line) => expect(parseMailLogLine(line)).toBeNull());
});

describe('the life of a queue id', () => {
  const process = (program: string) => ({ queueId: ID, process: `postfix/${program}[123]` });
  const begun = { kind: 'begun', requeuedFrom: null };

  it.each([
    ['smtpd', 'client=unknown[127.0.0.1], sasl_username=orig_id=BBBBBBBB', begun],
    ['pickup', 'uid=0 from=<b@sender.example>', begun],
    ['pickup', 'uid=102 from=<> orig_id=D0BE79BC095', { ...begun, requeuedFrom: 'D0BE79BC095' }],
    ['cleanup', 'message-id=<x@y>', { kind: 'written' }],
    ['cleanup', 'milter-hold: END-OF-MESSAGE from h[::1]: x', { kind: 'held', by: 'filter' }],
    ['cleanup', 'milter-hold: CONNECT from h[::1]: x', { kind: 'held', by: 'filter_down' }],
    ['smtpd', 'milter-hold: DATA from h[::1]: x', { kind: 'held', by: 'filter_down' }],
    ['cleanup', 'hold: header X-Hold-Me: yes from h[::1]; x', { kind: 'held', by: 'rule' }],
    ['smtpd', 'hold: RCPT from h[::1]: <a@b>: Sender address', { kind: 'held', by: 'rule' }],
  ])('is told by %s: %s', (program, text, said) =>
    expect(from(program, `${ID}: ${text}`)).toEqual({ ...process(program), ...said }),
  );

  it.each([
    ['placed on hold', 'held'],
    ['released from hold', 'released'],
    ['removed', 'removed'],
    ['requeued', 'requeued'],
    ['expired', 'expired'],
  ])('is changed by postsuper: %s', (text, did) =>
    expect(from('postsuper', `${ID}: ${text}`)).toEqual({ kind: 'postsuper', queueId: ID, did }),
  );

  it.each([
    ['bounce', 'sender non-delivery notification: 6DC129BC155', 'bounce_sent'],
    ['qmgr', 'from=<a@b>, status=force-expired, returned to sender', 'returned'],
    ['qmgr', 'from=<>, status=expired, returned to sender', 'returned'],
    ['qmgr', 'removed', 'over'],
  ])('ends by %s: %s', (program, text, kind) =>
    expect(from(program, `${ID}: ${text}`)).toMatchObject({ kind, queueId: ID }),
  );

  it('is foretold by a hold before the queue id, until the message comes to nothing', () => {
    const omen = { kind: 'omen', process: 'postfix/smtpd[123]' };
    const hold = 'NOQUEUE: hold: RCPT from h[::1]: <a@b>: Sender address triggers HOLD action';
    expect(from('smtpd', hold)).toEqual({ ...omen, of: 'rule' });
    expect(from('smtpd', 'NOQUEUE: milter-hold: RCPT from h[::1]: x')).toBeNull();
    expect(from('smtpd', 'NOQUEUE: reject: RCPT from h[::1]: x')).toEqual({ ...omen, of: 'none' });
    expect(from('smtpd', 'disconnect from h[::1]')).toEqual({ ...omen, of: 'none' });
  });

  it.each([
    "milter inet:127.0.0.1:2532: can't read SMFIC_BODYEOB reply packet header: Connection timed out",
    'connect to Milter service inet:127.0.0.1:2532: Connection refused',
  ])('is foretold by a filter that fails: %s', (text) =>
    expect(from('cleanup', `warning: ${text}`)).toMatchObject({ of: 'filter_down' }),
  );
});

describe('the result of a recipient', () => {
  it.each([
    ['a plain address', 'a@rcpt.example'],
    ['a space, a bracket and a field', '"a b>, relay=x, dsn=5.0.0, status=bounced (x"@r.example'],
    ['quotes, a backslash and a comma', String.raw`"q\"uo\\te, x"@r.example`],
    ['letters beyond ASCII', 'jürgen@r.example'],
    ['no domain', 'postmaster'],
  ])('has an address with %s', (_name, address) =>
    expect(result(`to=<${address}>, ${SENT}`)).toEqual({
      kind: 'result',
      queueId: ID,
      address,
      originalAddress: null,
      fact,
    }),
  );

  it('has the original address where it differs', () =>
    expect(result(`to=<final@r.example>, orig_to=<"a> b"@r.example>, ${SENT}`)).toMatchObject({
      address: 'final@r.example',
      originalAddress: '"a> b"@r.example',
    }));

  it.each([
    ['deferred', 'deferred'],
    ['bounced', 'bounced'],
    ['expired', 'expired'],
    ['force-expired', 'expired'],
  ])('is %s', (word, status) =>
    expect(result(`to=<a@b>, ${RELAY}, dsn=4.0.0, status=${word} (x)`)).toMatchObject({
      fact: { status, code: null, reply: 'x' },
    }),
  );

  it('has no relay where none was spoken to', () =>
    expect(result(`to=<a@b>, ${SENT.replace(/relay=[^,]+/, 'relay=none')}`, 'error')).toMatchObject(
      { fact: { relay: null } },
    ));

  it('has fields of a later version stepped over', () => {
    const text = `to=<a@b>, ${SENT.replace('dsn=', 'conn_use=2, tls=dane:ok, dsn=')}`;
    expect(result(text)).toMatchObject({ fact });
  });

  it.each([
    ['host mx[1.2.3.4] said: 550-5.1.1 no 550 5.1.1 really (in reply to RCPT TO command)', 550],
    ['host mx[1.2.3.4] refused to talk to me: 554 5.7.1 go away', 554],
    ['250', 250],
    ['delivered to command: 250 things', null],
    ['connect to mx[1.2.3.4]:25: Connection refused', null],
    ['host mx[1.2.3.4] said: x 250 ok', null],
    ['2500 things', null],
  ])('has the reply code of %s', (text, code) =>
    expect(result(`to=<a@b>, ${RELAY}, dsn=4.0.0, status=deferred (${text})`)).toMatchObject({
      fact: { code, reply: text },
    }),
  );

  it('takes nothing of what a remote server says for a field', () => {
    const said = `450 4.2.1 wait), ${SENT.replace('sent', 'bounced')}, to=<x@y>, orig_to=<z@y>`;
    expect(result(`to=<a@b>, ${RELAY}, dsn=4.2.1, status=deferred (${said})`)).toMatchObject({
      address: 'a@b',
      originalAddress: null,
      fact: { status: 'deferred', dsn: '4.2.1', code: 450, reply: said },
    });
  });

  it('has a reply of one line, at most 500 characters', () => {
    const said = `250 \u001b[31m a\u2028b\r ${'😀'.repeat(400)}`;
    const line = result(`to=<a@b>, ${SENT.replace('250 2.0.0 Ok', said)}`);
    const reply = line?.kind === 'result' ? line.fact.reply : '';
    expect(reply).toMatch(/^250 \[31m a b 😀+$/u);
    expect(reply.length).toBeLessThanOrEqual(500);
  });

  it('is read of a text that was cut off, and not of a line cut off before it', () => {
    const text = `to=<a@b>, ${SENT}`;
    expect(result(text.slice(0, -1))).toMatchObject({ fact });
    expect(result(text.slice(0, text.indexOf(' (')))).toBeNull();
    expect(result('to=<"a@b>, relay=x, dsn=2.0.0, status=sent (250 ok)')).toBeNull();
  });
});

describe('what others write into the log', () => {
  it.each([
    ['a delivery agent', 'smtp', 'removed'],
    ['a delivery agent', 'smtp', 'client=h[::1]'],
    ['a delivery agent', 'smtp', 'sender non-delivery notification: BBBBBBBB'],
    ['a remote server, on the way to the next', 'smtp', `host x said: to=<a@b>, ${SENT}`],
    ['the queue manager', 'qmgr', 'released from hold'],
    ['the queue manager', 'qmgr', 'from=<to=<a@b>, relay=x, dsn=2.0.0, status=sent (x)>'],
    ['a sender', 'qmgr', 'from=<"x>, status=expired, returned to sender"@y>, size=1, nrcpt=1'],
    ['a sender that fills a line', 'qmgr', 'from=<"x>, status=expired, returned to sender'],
    ['postsuper', 'postsuper', `to=<a@b>, ${SENT}`],
    ['smtpd', 'smtpd', `to=<a@b>, ${SENT}`],
    ['smtpd', 'smtpd', 'reject: RCPT from h[::1]: hold: header client=x'],
    ['a header that is warned of', 'cleanup', 'warning: header Subject: hold: header x'],
    ['the bounce daemon', 'bounce', 'removed'],
    ['another notification', 'bounce', 'sender delay notification: 6DC129BC155'],
  ])('is believed of none but who it is for: %s (%s) %s', (_name, program, text) =>
    expect(from(program, `${ID}: ${text}`)).toBeNull(),
  );

  it('is a rule, and about its own id, whatever the header says', () => {
    const subject = `x ${ID}1: removed? milter-hold: END-OF-MESSAGE from h; to=<a@b>, ${SENT}`;
    expect(from('cleanup', `${ID}: hold: header Subject: ${subject} from h[::1]`)).toEqual({
      kind: 'held',
      queueId: ID,
      process: 'postfix/cleanup[123]',
      by: 'rule',
    });
  });

  it.each([
    ['in quotes', String.raw`<"s\"> orig_id=BBBBBBBB x"@sender.example>`],
    ['where the line is cut', String.raw`<"s\"> orig_id=BBBBBBBB`],
    ['without quotes', '<s> orig_id=BBBBBBBB>'],
  ])('names no former id in a sender, %s', (_name, sender) =>
    expect(from('pickup', `${ID}: uid=102 from=${sender}`)).toMatchObject({
      kind: 'begun',
      requeuedFrom: null,
    }),
  );

  it('takes no former id that may be cut', () => {
    const text = (length: number) => `uid=102 from=<${'y'.repeat(length)}> orig_id=D0BE79BC095`;
    const short = 2_000 - text(0).length - `${ID}: `.length - 1;
    expect(from('pickup', `${ID}: ${text(short)}`)).toMatchObject({ requeuedFrom: 'D0BE79BC095' });
    expect(from('pickup', `${ID}: ${text(short + 1)}`)).toMatchObject({ requeuedFrom: null });
  });

  it('is read in a time that grows with its length', () => {
    const long = '"\\"> '.repeat(200_000);
    expect(result(`to=<${long}`)).toBeNull();
    expect(result(`to=<${'"a"'.repeat(200_000)}`)).toBeNull();
    expect(result(`to=<a@b>, relay=x, ${'a=b, '.repeat(200_000)}`)).toBeNull();
  });
});
