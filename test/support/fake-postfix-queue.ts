import {
  type FakeHeldBy,
  type FakeMailLog,
  type FakeResult,
  sayArrival,
  sayExpired,
  sayResult,
  sayRule,
} from './fake-postfix-lines.ts';

/** What postsuper can do, by the names that the helper has for it; `hold` is the console's alone. */
export type FakeAct = 'release' | 'requeue' | 'discard' | 'bounce' | 'hold';

export type FakeMessage = {
  queueId: string;
  queue: 'hold' | 'deferred' | 'maildrop';
  size: number;
  mtime: string;
  readonly arrivedAt: number;
  readonly sender: string;
  /** Those who have no final answer yet, with the reason of the last delay. */
  readonly recipients: Map<string, string | null>;
  /** With LF, as Postfix keeps it; bytes are characters. */
  readonly text: string;
  readonly heldBy: FakeHeldBy;
  isExpired: boolean;
};

/** What left the virtual Postfix by SMTP; of a bounce the sender is empty. */
export type FakeDelivery = Readonly<{ queueId: string; sender: string; recipient: string }>;

export type Arrival = Readonly<{
  sender?: string;
  recipients?: readonly string[];
  text?: string;
  heldBy?: FakeHeldBy;
  queueId?: string;
  at?: Date;
  /** Goes by and is tried at once, as any mail that nobody holds. */
  isPassed?: boolean;
}>;

const DULL_TEXT = 'From: Eve <eve@sender.example>\nSubject: A test\nMessage-ID: <a@b>\n\nHello.\n';
/** What the envelope and the marks of its records take in a queue file. */
const ENVELOPE_BYTES = 612;
/** Between two tries of one message, at first (postconf(5), minimal_backoff_time). */
const BACKOFF_SECONDS = 300;

const WORDS: Readonly<Record<FakeAct, readonly string[]>> = {
  release: ['released from hold'],
  requeue: ['requeued'],
  discard: ['removed'],
  bounce: ['expired', 'released from hold'],
  hold: ['placed on hold'],
};
const TOTALS: Readonly<Record<FakeAct, readonly string[]>> = {
  release: ['Released from hold'],
  requeue: ['Requeued'],
  discard: ['Deleted'],
  bounce: ['Force-expired', 'Released from hold'],
  hold: ['Placed on hold'],
};

export type FakeQueue = ReturnType<typeof openFakeQueue>;

/** The queues of a virtual Postfix, without a clock of their own: nothing is tried until it is asked for. */
export function openFakeQueue(log: FakeMailLog) {
  const messages = new Map<string, FakeMessage>();
  const delivered: FakeDelivery[] = [];
  const results = new Map<string, FakeResult>();
  let ids = 0;

  const nextId = (): string => {
    ids += 1;
    return `4jZw${String(ids).padStart(7, '0')}z1TwMx`;
  };
  /** Of now, and of no other file. */
  const nextMtime = (at: Date): string => {
    ids += 1;
    return `${(at.getTime() / 1_000).toFixed(3)}${String(ids).padStart(6, '0')}0`;
  };

  function arrive(arrival: Arrival = {}): FakeMessage {
    const { sender = 'eve@sender.example', recipients = ['you@example.com'] } = arrival;
    const { text = DULL_TEXT, heldBy = 'filter', at = new Date() } = arrival;
    const message: FakeMessage = {
      queueId: arrival.queueId ?? nextId(),
      queue: heldBy === 'hand' || arrival.isPassed === true ? 'deferred' : 'hold',
      size: text.length + ENVELOPE_BYTES + recipients.join('').length,
      mtime: nextMtime(at),
      arrivedAt: Math.floor(at.getTime() / 1_000),
      sender,
      recipients: new Map(recipients.map((address) => [address, null])),
      text,
      heldBy,
      isExpired: false,
    };
    messages.set(message.queueId, message);
    sayArrival(log, heldBy, { queueId: message.queueId, sender, recipients });
    if (message.queue === 'deferred') {
      tryOnce(message, heldBy === 'hand' ? 'deferred' : null);
    }
    if (heldBy === 'hand') postsuper('hold', [message.queueId]);
    return message;
  }

  /** What postsuper prints; a miss has no line of its own, only the totals. */
  function postsuper(verb: FakeAct, asked: readonly string[]): string[] {
    const lines: string[] = [];
    let hits = 0;
    for (const queueId of asked) {
      const message = messages.get(queueId);
      const isHere = (message?.queue === 'hold') !== (verb === 'hold');
      if (message === undefined || !isHere) continue;
      hits += 1;
      for (const words of WORDS[verb]) lines.push(`${queueId}: ${words}`);
      move(message, verb);
    }
    const count = `${hits} message${hits === 1 ? '' : 's'}`;
    if (asked.length > 0) lines.push(...TOTALS[verb].map((total) => `${total}: ${count}`));
    for (const line of lines) log.say('postsuper', line);
    return lines.map((line) => `postsuper: ${line}`);
  }

  function move(message: FakeMessage, verb: FakeAct): void {
    if (verb === 'discard') messages.delete(message.queueId);
    else if (verb === 'hold') message.queue = 'hold';
    else if (verb === 'requeue') message.queue = 'maildrop';
    else {
      message.queue = 'deferred';
      message.isExpired ||= verb === 'bounce';
    }
  }

  /** What lies in maildrop comes in anew, under another id; header checks are applied again. */
  function pickup(): void {
    for (const old of [...messages.values()].filter(({ queue }) => queue === 'maildrop')) {
      messages.delete(old.queueId);
      const queueId = nextId();
      const again = { ...old, queueId, size: old.size + 251, mtime: nextMtime(new Date()) };
      again.queue = old.heldBy === 'rule' ? 'hold' : 'deferred';
      messages.set(queueId, again);
      log.say('pickup', `${queueId}: uid=102 from=<${old.sender}> orig_id=${old.queueId}`);
      log.say('cleanup', `${queueId}: message-id=<${old.queueId}@sender.example>`);
      const recipients = [...old.recipients.keys()];
      if (again.queue === 'hold') sayRule(log, { queueId, sender: old.sender, recipients });
      else tryOnce(again);
    }
  }

  /** One try of what is in the deferred queue, as its recipients' servers answer it. */
  function tryOnce(message: FakeMessage, always: FakeResult | null = null): void {
    const { queueId, sender } = message;
    const recipients = [...message.recipients.keys()];
    const about = { queueId, sender, recipients };
    if (message.isExpired) {
      sayExpired(log, about);
      bounce(message);
      remove(message);
      return;
    }
    const size = message.text.length;
    log.say(
      'qmgr',
      `${queueId}: from=<${sender}>, size=${size}, nrcpt=${recipients.length} (queue active)`,
    );
    const outcomes = recipients.map((address) => tryFor(message, address, always));
    if (outcomes.includes('bounced')) bounce(message);
    if (message.recipients.size === 0) remove(message);
    // The time of the next try, which is how Postfix remembers it.
    else message.mtime = `${Math.floor(Date.now() / 1_000) + BACKOFF_SECONDS}.0000000000`;
  }

  function tryFor(message: FakeMessage, address: string, always: FakeResult | null): FakeResult {
    const { queueId, sender, recipients } = message;
    const result = always ?? results.get(address.toLowerCase()) ?? 'sent';
    const reason = sayResult(log, queueId, { address, result });
    if (result === 'deferred') recipients.set(address, reason);
    else recipients.delete(address);
    if (result === 'sent') delivered.push({ queueId, sender, recipient: address });
    return result;
  }

  /** A notice to the sender; to the null sender none is sent, and nothing is said. */
  function bounce({ queueId, sender }: FakeMessage): void {
    if (sender === '') return;
    const bounceId = nextId();
    log.say('cleanup', `${bounceId}: message-id=<${bounceId}@mx.test.example>`);
    log.say('bounce', `${queueId}: sender non-delivery notification: ${bounceId}`);
    log.say('qmgr', `${bounceId}: from=<>, size=2500, nrcpt=1 (queue active)`);
    sayResult(log, bounceId, { address: sender, result: 'sent' });
    delivered.push({ queueId: bounceId, sender: '', recipient: sender });
    log.say('qmgr', `${bounceId}: removed`);
  }
  function remove({ queueId }: FakeMessage): void {
    messages.delete(queueId);
    log.say('qmgr', `${queueId}: removed`);
  }

  return {
    messages,
    delivered,
    results,
    arrive,
    postsuper,
    pickup,
    /** Tries these, or all that wait: the queue manager's own run. */
    run(only?: readonly string[]): void {
      for (const message of [...messages.values()]) {
        if (message.queue !== 'deferred') continue;
        if (only === undefined || only.includes(message.queueId)) tryOnce(message);
      }
    },
    held: (): FakeMessage[] => [...messages.values()].filter(({ queue }) => queue === 'hold'),
  };
}

/** As `find` prints a held file, and as it is meant by who acts on it. */
export const heldLine = ({ queueId, size, mtime }: FakeMessage): string =>
  `${queueId} ${size} ${mtime}`;

/** As `postqueue -j` prints a message. */
export function listLine(message: FakeMessage): string {
  const recipients = [...message.recipients].map(([address, reason]) =>
    reason === null ? { address } : { address, delay_reason: reason },
  );
  return JSON.stringify({
    queue_name: message.queue,
    queue_id: message.queueId,
    arrival_time: message.arrivedAt,
    // Without what a filter has added, so that it never is the length of the text.
    message_size: Math.max(1, message.text.length - 393),
    forced_expire: message.isExpired,
    sender: message.sender === '' ? 'MAILER-DAEMON' : message.sender,
    recipients,
  });
}
