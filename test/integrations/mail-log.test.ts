import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { followMailLog, type LogFacts, type MailLog } from '../../src/integrations/mail-log.ts';

const home = mkdtempSync(join(tmpdir(), 'mailguard-mail-log-'));
afterAll(() => rmSync(home, { recursive: true }));

const A = 'AAAAAAAA01';
const B = 'BBBBBBBB02';
const at = (program: string, text: string) => `Nov 26 12:00:08 mx postfix/${program}[9]: ${text}\n`;
const begun = (id: string) => at('smtpd', `${id}: client=h[::1]`);
const written = (id: string) => at('cleanup', `${id}: message-id=<x@y>`);
const held = (id: string, program = 'cleanup', stage = 'END-OF-MESSAGE') =>
  at(program, `${id}: milter-hold: ${stage} from h[::1]: milter triggers HOLD action; from=<a@b>`);
const admin = (id: string, word: string) => at('postsuper', `${id}: ${word}`);
const over = (id: string) => at('qmgr', `${id}: removed`);
const result = (id: string, address: string, end: string) =>
  at('smtp', `${id}: to=<${address}>, relay=mx[1.2.3.4]:25, delay=1, dsn=2.0.0, status=${end}`);

let path: string;
let logs = 0;
let warn = vi.fn();
const open: MailLog[] = [];
beforeEach(() => {
  logs += 1;
  path = join(home, `mail-${logs}.log`);
  warn = vi.fn();
});
afterEach(async () => {
  for (const log of open.splice(0)) await log.stop();
});

async function follow(options: { scanBytes?: number; idsMax?: number } = {}): Promise<MailLog> {
  const log = await followMailLog({ path, logger: { warn }, pollMs: 5, ...options });
  open.push(log);
  return log;
}
/** What is known after some lines that are there at the start. */
async function factsAfter(...lines: string[]): Promise<LogFacts | null> {
  writeFileSync(path, lines.join(''));
  return (await follow()).factsOf(A);
}
const isThere = (facts: LogFacts | null) => facts !== null;
const soon = (log: MailLog, id: string) => log.wait(id, isThere, 1_000);

describe('what is known of a queue id', () => {
  it('is nothing when the log does not speak of it', async () =>
    expect(await factsAfter(begun(B))).toBeNull());

  it('is its begin', async () =>
    expect(await factsAfter(begun(A))).toEqual({
      queueId: A,
      heldBy: null,
      left: null,
      successor: null,
      recipients: new Map(),
      isBounced: false,
      isOver: false,
    }));

  const fails = at('cleanup', "warning: milter inet:x:1: can't read SMFIC_BODYEOB reply: timeout");
  const rule = at('cleanup', `${A}: hold: header X: y from h[::1]; from=<a@b>`);
  const access = at('smtpd', 'NOQUEUE: hold: RCPT from h[::1]: <a@b>: Sender address triggers');
  const reject = at('smtpd', 'NOQUEUE: reject: RCPT from h[::1]: 550 no');
  it.each([
    ['a filter', 'filter', [begun(A), written(A), held(A)]],
    ['a filter that is not there', 'filter_down', [begun(A), held(A, 'smtpd', 'DATA')]],
    ['a filter that died over it', 'filter_down', [begun(A), written(A), fails, held(A)]],
    ['a filter, when it failed at another', 'filter', [written(B), fails, written(A), held(A)]],
    ['a filter, when another is down', 'filter', [begun(A), fails, held(A), held(A)]],
    ['a filter, before another fails', 'filter', [begun(A), held(A), fails, held(A)]],
    ['a rule', 'rule', [begun(A), rule, written(A)]],
    ['a filter, more than a rule', 'filter', [begun(A), rule, written(A), held(A)]],
    ['a table, before it has an id', 'rule', [access, begun(A), written(A)]],
    ['nobody, when a table held one that was refused', null, [access, reject, begun(A)]],
    ['nobody, when a table held the one before', null, [access, begun(B), begun(A)]],
    ['hand', 'hand', [begun(A), held(A), admin(A, 'placed on hold')]],
  ])('is that it was held by %s', async (_name, heldBy, lines) =>
    expect(await factsAfter(...lines)).toMatchObject({ heldBy }),
  );

  it.each([
    ['released', ['released from hold'], { left: 'released', isOver: false }],
    ['removed', ['removed'], { left: 'removed', isOver: true }],
    ['requeued', ['requeued'], { left: 'requeued', isOver: true }],
    ['expired', ['expired', 'released from hold'], { left: 'expired', isOver: false }],
    ['held again', ['released from hold', 'placed on hold'], { left: null, heldBy: 'hand' }],
  ])('is that it was %s', async (_name, words, facts) => {
    const said = words.map((word) => admin(A, word));
    expect(await factsAfter(begun(A), held(A), ...said)).toMatchObject(facts);
  });

  it('is what it goes on as after a requeue, and who held it before', async () => {
    const picked = at('pickup', `${B}: uid=102 from=<"x> orig_id=CCCCCCCC"@y> orig_id=${A}`);
    writeFileSync(path, begun(A) + held(A) + admin(A, 'requeued') + picked + over(B));
    const log = await follow();
    expect(log.factsOf(A)).toMatchObject({ successor: B, left: 'requeued', heldBy: 'filter' });
    expect(log.factsOf(B)).toMatchObject({ successor: null, isOver: true });
    expect(log.factsOf('CCCCCCCC')).toBeNull();
  });

  it('is the last result of each recipient, also by the original address', async () => {
    const facts = await factsAfter(
      begun(A),
      result(A, 'One@R.example', 'deferred (host mx[1.2.3.4] said: 450 later)'),
      result(A, 'One@R.example', 'sent (250 ok)'),
      result(A, 'final@r.example>, orig_to=<Alias@r.example', 'bounced (x)'),
    );
    const statuses = [...(facts?.recipients ?? [])].map(([to, { status }]) => [to, status]);
    expect(statuses).toEqual([
      ['one@r.example', 'sent'],
      ['final@r.example', 'bounced'],
      ['alias@r.example', 'bounced'],
    ]);
  });

  it('is its end by age, for those who did not get it', async () => {
    const facts = await factsAfter(
      result(A, 'late@r', 'deferred (message is administratively expired)'),
      result(A, 'ok@r', 'sent (250 ok)'),
      at('qmgr', `${A}: from=<a@b>, status=force-expired, returned to sender`),
      at('bounce', `${A}: sender non-delivery notification: ${B}`),
      over(A),
    );
    expect(facts).toMatchObject({ isBounced: true, isOver: true });
    expect(facts?.recipients.get('late@r')).toMatchObject({ status: 'expired' });
    expect(facts?.recipients.get('ok@r')).toMatchObject({ status: 'sent' });
  });

  it('is of its present life, when the id is used again', async () =>
    expect(await factsAfter(begun(A), held(A), over(A), begun(A))).toMatchObject({
      heldBy: null,
      isOver: false,
    }));

  it('is of its present life, when a bounce that begins in no other way uses it', async () =>
    expect(await factsAfter(held(A), over(A), written(A))).toMatchObject({
      heldBy: null,
      isOver: false,
    }));

  it('does not change in the hands of who asked', async () => {
    writeFileSync(path, begun(A));
    const log = await follow();
    const before = log.factsOf(A);
    appendFileSync(path, result(A, 'a@r', 'sent (250 ok)') + over(A) + begun(B));
    await soon(log, B);
    expect(before).toMatchObject({ isOver: false, recipients: new Map() });
  });
});

describe('the start', () => {
  it('reads no more than the end, and no half line', async () => {
    writeFileSync(path, begun('CCCCCCCC03') + begun(A) + begun(B));
    const log = await follow({ scanBytes: begun(B).length + begun(A).length - 2 });
    expect([log.factsOf(A), log.factsOf(B)?.queueId]).toEqual([null, B]);
  });

  it.each([0, 1])(
    'believes no line inside a line, where the end begins there, %i',
    async (less) => {
      const inside = over(A).trimEnd();
      const rest = `${inside}\n${begun(B)}`;
      writeFileSync(path, `${begun(A)}${result(A, 'a@r', 'deferred (450 ').trimEnd()}${rest}`);
      const log = await follow({ scanBytes: rest.length - less });
      expect([log.factsOf(A), log.factsOf(B)?.queueId]).toEqual([null, B]);
    },
  );

  it('reads a line that begins where the end begins', async () => {
    writeFileSync(path, begun(A) + begun(B));
    const log = await follow({ scanBytes: begun(B).length });
    expect([log.factsOf(A), log.factsOf(B)?.queueId]).toEqual([null, B]);
  });

  it('reads the rotated file first, where the log is shorter', async () => {
    writeFileSync(`${path}.1`, `${begun('CCCCCCCC03')}${begun(A)}${held(A)}no end`);
    writeFileSync(path, admin(A, 'released from hold') + begun(B));
    const log = await follow({ scanBytes: 300 });
    expect(log.factsOf(A)).toMatchObject({ heldBy: 'filter', left: 'released' });
    expect(log.factsOf('CCCCCCCC03')).toBeNull();
  });

  it('reads the rotated file when there is no other yet', async () => {
    writeFileSync(`${path}.1`, begun(A));
    const log = await follow();
    expect(log.factsOf(A)).not.toBeNull();
    const isEnough = vi.fn(() => false);
    await log.wait(A, isEnough, 30);
    // It is read once, and not again at each look for the other.
    expect(isEnough).toHaveBeenCalledOnce();
  });

  it('does without a rotated file that cannot be read', async () => {
    mkdirSync(`${path}.1`);
    expect(await factsAfter(begun(A))).not.toBeNull();
    expect(warn).not.toHaveBeenCalled();
  });
});

describe('following', () => {
  it('reads on over a rename, with what is still written to the old file', async () => {
    writeFileSync(path, begun(A));
    const log = await follow();
    renameSync(path, `${path}.1`);
    writeFileSync(path, '');
    appendFileSync(`${path}.1`, held(A));
    await log.wait(A, (facts) => facts?.heldBy === 'filter', 1_000);
    appendFileSync(`${path}.1`, `${admin(A, 'released from hold')}no end`);
    appendFileSync(path, over(A) + begun(B));
    await soon(log, B);
    expect(log.factsOf(A)).toMatchObject({ heldBy: 'filter', left: 'released', isOver: true });
    appendFileSync(path, begun('CCCCCCCC03'));
    expect(await soon(log, 'CCCCCCCC03')).not.toBeNull();
  });

  it('reads on over a truncation', async () => {
    writeFileSync(path, `${begun(A)}${held(A)}no end`);
    const log = await follow();
    copyFileSync(path, `${path}.1`);
    truncateSync(path);
    appendFileSync(path, over(A));
    const facts = await log.wait(A, (known) => known?.isOver === true, 1_000);
    expect(facts).toMatchObject({ heldBy: 'filter', isOver: true });
  });

  it('waits for the end of a line', async () => {
    writeFileSync(path, begun(A) + admin(A, 'removed').trimEnd());
    const log = await follow();
    expect(log.factsOf(A)).toMatchObject({ left: null });
    appendFileSync(path, '\n');
    const facts = await log.wait(A, (known) => known?.isOver === true, 1_000);
    expect(facts).toMatchObject({ left: 'removed' });
  });

  it('steps over a line that is too long, and reads bytes that are no UTF-8', async () => {
    const bytes = Buffer.from(result(A, 'x@r', 'sent (250 \u00e9)'), 'latin1');
    const long = [70_000, 700_000].map((length) =>
      result(A, `${length}@r`, `sent (${'x'.repeat(length)})`),
    );
    writeFileSync(path, Buffer.concat([Buffer.from(long.join('')), bytes]));
    const log = await follow();
    expect([...(log.factsOf(A)?.recipients.keys() ?? [])]).toEqual(['x@r']);
    expect(log.factsOf(A)?.recipients.get('x@r')?.reply).toBe('250 \ufffd');
  });

  it('waits for a file that is not there, says so once, and reads it from its start', async () => {
    const log = await follow();
    expect(log.trouble()).toBe('the mail log is not there');
    await log.wait(A, isThere, 30);
    writeFileSync(path, begun(A));
    expect(await soon(log, A)).not.toBeNull();
    await expect.poll(log.trouble, { interval: 5 }).toBeNull();
    expect(warn.mock.calls).toEqual([[{ path }, 'the mail log is not there']]);
  });

  it('tells of a file that goes away, and reads the one that comes back', async () => {
    writeFileSync(path, begun(A));
    const log = await follow();
    expect(log.trouble()).toBeNull();
    rmSync(path);
    await expect.poll(log.trouble, { interval: 5 }).toBe('the mail log is not there');
    writeFileSync(path, begun(B));
    expect(await soon(log, B)).not.toBeNull();
    await expect.poll(log.trouble, { interval: 5 }).toBeNull();
    expect(log.factsOf(A)).not.toBeNull();
  });

  it('tells once of what cannot be read, and reads it when it can', async () => {
    mkdirSync(path);
    const log = await follow();
    await log.wait(A, isThere, 30);
    expect(log.trouble()).toBe('the mail log cannot be read (EFTYPE)');
    expect(warn).toHaveBeenCalledOnce();
    rmdirSync(path);
    writeFileSync(path, begun(A));
    expect(await soon(log, A)).not.toBeNull();
  });
});

describe('what is remembered', () => {
  it('is what was last spoken of', async () => {
    writeFileSync(path, begun(A) + begun(B) + written(A) + begun('CCCCCCCC03'));
    const log = await follow({ idsMax: 2 });
    expect([A, B, 'CCCCCCCC03'].map((id) => log.factsOf(id) !== null)).toEqual([true, false, true]);
  });

  it('is less of other ids when one has many recipients, and not all of these', async () => {
    const results = Array.from({ length: 3_000 }, (_, i) => result(A, `r${i}@r`, 'sent (250 ok)'));
    writeFileSync(path, begun(B) + begun(A) + results.join('') + over(A));
    const log = await follow({ idsMax: 100 });
    expect(log.factsOf(B)).toBeNull();
    expect(log.factsOf(A)).toMatchObject({ isOver: true });
    expect(log.factsOf(A)?.recipients.size).toBe(2_000);
  });

  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const id = (i: number) => (0xa0000000 + i).toString(16).toUpperCase();
  async function heapTakenBy(idsMax: number): Promise<{ bytes: number; log: MailLog }> {
    collect();
    const before = process.memoryUsage().heapUsed;
    const log = await follow({ idsMax });
    collect();
    return { bytes: process.memoryUsage().heapUsed - before, log };
  }

  it('takes no more room for a long log', async () => {
    const reply = 'x'.repeat(20);
    for (let from = 0; from < 200_000; from += 10_000) {
      const lines = Array.from({ length: 10_000 }, (_, i) =>
        result(id(from + i), 'a@rcpt.example', `sent (250 ${reply} ${from + i})`),
      );
      appendFileSync(path, lines.join(''));
    }
    const { bytes, log } = await heapTakenBy(1_000);
    expect(bytes).toBeLessThan(8_000_000);
    const known = [0, 198_999, 199_000, 199_999].map((i) => log.factsOf(id(i)) !== null);
    expect(known).toEqual([false, false, true, true]);
  });

  it('takes no room for what it does not say of a line', async () => {
    for (let i = 0; i < 150; i += 1) {
      const address = `a${'b'.repeat(20)}@r`;
      appendFileSync(path, result(id(i), address, `sent (${'x'.repeat(60_000)})`));
    }
    const { bytes, log } = await heapTakenBy(1_000);
    expect(bytes).toBeLessThan(3_000_000);
    expect(log.factsOf(id(0))?.recipients.size).toBe(1);
  });

  it('takes no room for a line that does not end', async () => {
    writeFileSync(path, 'x'.repeat(8_000_000));
    collect();
    const before = process.memoryUsage().arrayBuffers;
    await follow();
    collect();
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2_000_000);
  });
});

describe('waiting', () => {
  it('is over at once when enough is known', async () => {
    writeFileSync(path, begun(A));
    const log = await follow();
    expect(await log.wait(A, isThere, 60_000)).toMatchObject({ queueId: A });
    expect(await log.wait(B, (facts) => facts === null, 60_000)).toBeNull();
  });

  it('is over when a line says enough, and not before', async () => {
    writeFileSync(path, begun(A));
    const log = await follow();
    const seen: (string | null | undefined)[] = [];
    const waiting = log.wait(
      A,
      (facts) => {
        seen.push(facts?.left);
        return facts?.left === 'released';
      },
      60_000,
    );
    appendFileSync(path, begun(B));
    await soon(log, B);
    appendFileSync(path, admin(A, 'released from hold'));
    expect(await waiting).toMatchObject({ left: 'released' });
    expect(seen).toEqual([null, 'released']);
  });

  it('is over after its time, and at a stop, with what is known', async () => {
    writeFileSync(path, begun(A));
    const log = await follow();
    expect(await log.wait(A, () => false, 1)).toMatchObject({ queueId: A });
    const waiting = log.wait(A, () => false, 60_000);
    await log.stop();
    expect(await waiting).toMatchObject({ queueId: A });
    expect(await log.wait(B, isThere, 60_000)).toBeNull();
  });

  it('fails with its own question, and with nothing else', async () => {
    writeFileSync(path, begun(B));
    const log = await follow();
    const failing = log.wait(
      A,
      (facts) => {
        if (facts !== null) throw new Error('asked wrongly');
        return false;
      },
      60_000,
    );
    appendFileSync(path, begun(A));
    await expect(failing).rejects.toThrow('asked wrongly');
    appendFileSync(path, over(B));
    expect(await log.wait(B, (facts) => facts?.isOver === true, 1_000)).not.toBeNull();
    expect(warn).not.toHaveBeenCalled();
  });
});
