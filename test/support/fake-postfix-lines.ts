import { appendFileSync, writeFileSync } from 'node:fs';

/** The mail log of a virtual Postfix: a file that grows as the real one does, or late. */
export type FakeMailLog = Readonly<{
  path: string;
  /** One line of a program, without date and process. */
  say: (program: string, text: string) => void;
  /** From now on lines wait for `flush`, as when syslog is behind. */
  hold: () => void;
  flush: () => void;
}>;

/** Every program has one process; the real ones have several. */
const PIDS: Readonly<Record<string, number>> = { smtpd: 21716, cleanup: 21717, qmgr: 21709 };

export function openFakeMailLog(path: string): FakeMailLog {
  writeFileSync(path, '');
  let waiting: string[] | null = null;
  return {
    path,
    say(program, text) {
      const line = `${syslogDate(new Date())} vm postfix/${program}[${PIDS[program] ?? 21800}]: ${text}\n`;
      if (waiting === null) appendFileSync(path, line);
      else waiting.push(line);
    },
    hold() {
      waiting ??= [];
    },
    flush() {
      const lines = waiting ?? [];
      waiting = null;
      appendFileSync(path, lines.join(''));
    },
  };
}

/** `Nov 26 12:00:04`, the day with a blank for its first digit (RFC 3164). */
function syslogDate(now: Date): string {
  const [, month = '', day = '', time = ''] =
    /^\w+ (\w+) (\d+) \d+ (\S+)/.exec(now.toString()) ?? [];
  return `${month} ${String(Number(day)).padStart(2)} ${time}`;
}

export type FakeHeldBy = 'filter' | 'filter_down' | 'rule' | 'hand' | 'nobody';

type Told = Readonly<{ queueId: string; sender: string; recipients: readonly string[] }>;

const CLIENT = 'localhost[127.0.0.1]';

/** What Postfix logs of a message that comes in and is held; of `nobody` the log was lost. */
export function sayArrival(log: FakeMailLog, heldBy: FakeHeldBy, told: Told): void {
  if (heldBy === 'nobody') return;
  const { queueId, sender, recipients } = told;
  // Of several recipients the last alone is named.
  const envelope = `from=<${sender}> to=<${recipients.at(-1) ?? ''}> proto=ESMTP helo=<client.example>`;
  const hold = 'milter triggers HOLD action';
  if (heldBy === 'filter_down') {
    log.say('smtpd', 'warning: connect to Milter service inet:127.0.0.1:2532: Connection refused');
    log.say('smtpd', `NOQUEUE: milter-hold: CONNECT from ${CLIENT}: ${hold}; proto=SMTP`);
  }
  log.say('smtpd', `${queueId}: client=${CLIENT}`);
  if (heldBy === 'filter_down') {
    log.say('smtpd', `${queueId}: milter-hold: DATA from ${CLIENT}: ${hold}; ${envelope}`);
  }
  log.say('cleanup', `${queueId}: message-id=<${queueId}@sender.example>`);
  if (heldBy === 'filter') {
    log.say(
      'cleanup',
      `${queueId}: milter-hold: END-OF-MESSAGE from ${CLIENT}: ${hold}; ${envelope}`,
    );
  }
  if (heldBy === 'rule') sayRule(log, told);
}

/** A header check holds it: on arrival, and again when it is requeued. */
export function sayRule(log: FakeMailLog, { queueId, sender, recipients }: Told): void {
  const to = recipients.at(-1) ?? '';
  const said = `from=<${sender}> to=<${to}> proto=ESMTP helo=<client.example>: because asked`;
  log.say('cleanup', `${queueId}: hold: header X-Hold-Me: yes from ${CLIENT}; ${said}`);
}

export type FakeResult = 'sent' | 'deferred' | 'bounced';

const SERVER = '127.0.0.1[127.0.0.1]';
const SAID: Readonly<Record<FakeResult, Readonly<{ dsn: string; text: string }>>> = {
  sent: { dsn: '2.0.0', text: '250 2.0.0 queued as SINK1' },
  deferred: {
    dsn: '4.7.1',
    text: `host ${SERVER} said: 451 4.7.1 later please (in reply to RCPT TO command)`,
  },
  bounced: {
    dsn: '5.1.1',
    text: `host ${SERVER} said: 550 5.1.1 no such user (in reply to RCPT TO command)`,
  },
};

/** What a server's answer was for one recipient; gives what `postqueue -j` then calls the reason. */
export function sayResult(
  log: FakeMailLog,
  queueId: string,
  to: Readonly<{ address: string; result: FakeResult }>,
): string {
  const { dsn, text } = SAID[to.result];
  const times = 'delay=0.22, delays=0.17/0/0.04/0.01';
  const end = `dsn=${dsn}, status=${to.result} (${text})`;
  log.say('smtp', `${queueId}: to=<${to.address}>, relay=${SERVER}:2600, ${times}, ${end}`);
  return text;
}

/** The end of a message that was declared to be too old; the word for a recipient is `deferred`. */
export function sayExpired(log: FakeMailLog, { queueId, sender, recipients }: Told): void {
  const why = 'dsn=4.7.0, status=deferred (message is administratively expired)';
  for (const address of recipients) {
    log.say(
      'error',
      `${queueId}: to=<${address}>, relay=none, delay=0.1, delays=0.09/0.01/0/0, ${why}`,
    );
  }
  log.say('qmgr', `${queueId}: from=<${sender}>, status=force-expired, returned to sender`);
}
