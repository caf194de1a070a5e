import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type HeldFile, type HoldQueue, openHoldQueue } from '../../src/integrations/hold-queue.ts';
import { connectPostfixHelper } from '../../src/integrations/postfix-helper.ts';

export type ToHold = Readonly<{
  sender?: string;
  recipients?: readonly string[];
  /** Headers and body with LF; each character is a byte. */
  text?: string;
}>;

/** A Postfix, real or not, whose servers put off all mail for `later@…` and take the rest. */
export type HoldPlace = Readonly<{
  /** Of its helper. */
  socket: string;
  /** Puts a message on hold; its queue id. */
  hold: (mail: ToHold) => Promise<string>;
  /** Does what an administrator does at the console. */
  console: (verb: 'release' | 'hold' | 'discard' | 'requeue', queueId: string) => void;
  stop: () => Promise<void>;
}>;

const SENDER = 'eve@sender.example';
const LATER = 'later@shop.example';
const WAIT = { timeout: 10_000, interval: 20 };
const TEXT = `Subject: Held\n\n${'Some text.\n'.repeat(5)}`;

/** What holds of the hold queue of every Postfix, and of what stands for one in tests. */
export function holdQueueContract(name: string, open: () => Promise<HoldPlace>): void {
  describe(`the hold queue of ${name}`, () => {
    let place: HoldPlace;
    let queue: HoldQueue;
    beforeAll(async () => {
      place = await open();
      queue = openHoldQueue(connectPostfixHelper({ socket: place.socket, askMs: 20_000 }));
    }, 120_000);
    afterAll(async () => place?.stop(), 60_000);

    const find = async (id: string) =>
      (await queue.held()).find(({ queueId }) => queueId === id) ?? null;
    /** Puts a message on hold, and gives its file. */
    async function hold({ sender = SENDER, recipients = [LATER], text = TEXT }: ToHold = {}) {
      const file = await find(await place.hold({ sender, recipients, text }));
      if (file === null) throw new Error('it is not held');
      return file;
    }
    const whereIs = async (id: string) => (await queue.list()).get(id)?.queueName ?? null;
    async function read(file: HeldFile): Promise<Buffer | null> {
      const bytes = await queue.open(file);
      if (bytes === null) return null;
      const chunks: Buffer[] = [];
      for await (const chunk of bytes) chunks.push(chunk);
      return Buffer.concat(chunks);
    }
    const larger = ({ queueId, file }: HeldFile): HeldFile => ({
      queueId,
      file: { ...file, size: file.size + 1 },
    });
    /** By the smallest step that a file system tells. */
    const later = ({ queueId, file }: HeldFile): HeldFile => {
      const last = file.mtime.endsWith('1') ? '2' : '1';
      return { queueId, file: { ...file, mtime: `${file.mtime.slice(0, -1)}${last}` } };
    };

    it('settings: tells those that matter here', async () => {
      const settings = await queue.settings();
      expect(settings.get('maximal_queue_lifetime')).toMatch(/^\d+[smhdw]$/);
      expect(settings.get('enable_long_queue_ids')).toMatch(/^(yes|no)$/);
      expect(settings.has('hash_queue_names')).toBe(true);
    });

    describe('looking', () => {
      it('held: has the file of what is held, until it is let go', async () => {
        const file = await hold();
        expect(file.file.size).toBeGreaterThan(0);
        expect(file.file.mtime).toMatch(/^\d+\.\d{9,10}$/);
        expect(Math.abs(Number(file.file.mtime) - Date.now() / 1_000)).toBeLessThan(60);
        place.console('release', file.queueId);
        expect(await find(file.queueId)).toBeNull();
      });

      it('list: tells queue, sender, all recipients and the arrival', async () => {
        const recipients = ['Two@shop.example', LATER, 'one@shop.example'];
        const { queueId } = await hold({ recipients });
        const entry = (await queue.list()).get(queueId);
        expect(entry).toMatchObject({ queueName: 'hold', queueId, sender: SENDER });
        expect([...(entry?.recipients ?? [])].sort()).toEqual([...recipients].sort());
        expect(Math.abs((entry?.arrivedAt.getTime() ?? 0) - Date.now())).toBeLessThan(60_000);
      });

      it('list: the null sender is empty', async () => {
        const { queueId } = await hold({ sender: '' });
        expect((await queue.list()).get(queueId)?.sender).toBe('');
      });

      it('list: what is let go and not delivered is in another queue, and not held', async () => {
        const { queueId } = await hold();
        place.console('release', queueId);
        expect(await whereIs(queueId)).toMatch(/^(deferred|active|incoming)$/);
        expect(await find(queueId)).toBeNull();
      });
    });

    describe('reading', () => {
      it('gives the text byte by byte, with CRLF at the end of every line', async () => {
        const body = `\xc4\xd6\xdc\x80\xff\n\n.a dot\n..\nend 0\n${'long '.repeat(150)}\n`;
        const bytes = await read(await hold({ text: `Subject: Bytes\n\n${body.repeat(400)}` }));
        const text = bytes?.toString('latin1') ?? '';
        expect(text).toContain('Subject: Bytes\r\n');
        expect(text.endsWith(`\r\n\r\n${body.repeat(400).replaceAll('\n', '\r\n')}`)).toBe(true);
        expect(text.replaceAll('\r\n', '')).not.toMatch(/[\r\n]/);
      });

      it('null: the file is another by its size or by its time', async () => {
        const file = await hold();
        expect(await read(larger(file))).toBeNull();
        expect(await read(later(file))).toBeNull();
        expect(await read(file)).not.toBeNull();
      });

      it('null: it is gone, or in another queue', async () => {
        const [gone, elsewhere] = [await hold(), await hold()];
        place.console('discard', gone.queueId);
        place.console('release', elsewhere.queueId);
        expect([await read(gone), await read(elsewhere)]).toEqual([null, null]);
      });

      it('a reader may turn away in the middle', async () => {
        const file = await hold({ text: `Subject: Long\n\n${'x'.repeat(900)}\n`.repeat(300) });
        const bytes = await queue.open(file);
        for await (const chunk of bytes ?? []) {
          expect(chunk.length).toBeGreaterThan(0);
          break;
        }
        expect((await read(file))?.length).toBeGreaterThan(270_000);
      });
    });

    describe('acting', () => {
      const VERBS = ['release', 'requeue', 'discard', 'bounce'] as const;

      it('release: it goes on under its id, and is tried when that is asked for', async () => {
        const file = await hold({ recipients: ['you@shop.example'] });
        expect(await queue.act('release', file)).toBe('done');
        expect(await find(file.queueId)).toBeNull();
        await queue.deliver(file.queueId);
        await expect.poll(() => whereIs(file.queueId), WAIT).toBeNull();
      });

      it('requeue: it goes on under another id', async () => {
        const recipients = ['later@shop.example', 'later@requeued.shop.example'];
        const file = await hold({ recipients });
        expect(await queue.act('requeue', file)).toBe('done');
        const others = async () =>
          [...(await queue.list()).values()].filter(
            ({ queueId, recipients: to }) =>
              queueId !== file.queueId && to.includes(recipients[1]!),
          ).length;
        await expect.poll(others, WAIT).toBe(1);
        await expect.poll(() => whereIs(file.queueId), WAIT).toBeNull();
      });

      it('discard: it is in no queue', async () => {
        const file = await hold();
        expect(await queue.act('discard', file)).toBe('done');
        expect(await whereIs(file.queueId)).toBeNull();
      });

      it('bounce: it goes back, and is then in no queue', async () => {
        const file = await hold();
        expect(await queue.act('bounce', file)).toBe('done');
        expect(await find(file.queueId)).toBeNull();
        await queue.deliver(file.queueId);
        await expect.poll(() => whereIs(file.queueId), WAIT).toBeNull();
      });

      it.each(VERBS)('not_held: %s of what is gone, and of what was done before', async (verb) => {
        const [gone, done] = [await hold(), await hold()];
        place.console('discard', gone.queueId);
        expect(await queue.act(verb, gone)).toBe('not_held');
        expect(await queue.act(verb, done)).toBe('done');
        expect(await queue.act(verb, done)).toBe('not_held');
      });

      it.each(VERBS)('not_held: %s of an id in another queue, which stays there', async (verb) => {
        const file = await hold();
        place.console('release', file.queueId);
        expect(await queue.act(verb, file)).toBe('not_held');
        expect(await whereIs(file.queueId)).toMatch(/^(deferred|active|incoming)$/);
      });

      it.each(VERBS)('differs: %s of another size or time; it is not touched', async (verb) => {
        const file = await hold();
        expect(await queue.act(verb, larger(file))).toBe('differs');
        expect(await queue.act(verb, later(file))).toBe('differs');
        expect(await find(file.queueId)).toEqual(file);
      });

      it('tells many at once apart', async () => {
        const files = await Promise.all(Array.from({ length: 10 }, () => hold()));
        const [gone] = files;
        if (gone !== undefined) place.console('discard', gone.queueId);
        const outcomes = await Promise.all(
          files.map((file, index) =>
            queue.act(index < 6 ? 'release' : 'discard', index === 5 ? larger(file) : file),
          ),
        );
        expect(outcomes).toEqual([
          ...['not_held', 'done', 'done', 'done', 'done', 'differs'],
          ...['done', 'done', 'done', 'done'],
        ]);
        expect(await find(files[5]?.queueId ?? '')).toEqual(files[5]);
      });

      it('refuses what is no queue id, and touches nothing', async () => {
        const file = await hold();
        await expect(queue.act('discard', { ...file, queueId: 'ALL' })).rejects.toThrow('refused');
        await expect(queue.act('discard', { ...file, queueId: '-h' })).rejects.toThrow('refused');
        await expect(queue.deliver(`${file.queueId} ../x`)).rejects.toThrow('refused');
        expect(await find(file.queueId)).toEqual(file);
      });

      it('deliver: does nothing to what is held, nor to what is nowhere', async () => {
        const [file, gone] = [await hold(), await hold()];
        place.console('discard', gone.queueId);
        await queue.deliver(file.queueId);
        await queue.deliver(gone.queueId);
        expect(await find(file.queueId)).toEqual(file);
      });

      it('what is let go and put on hold again is held again', async () => {
        const { queueId } = await hold();
        place.console('release', queueId);
        place.console('hold', queueId);
        const again = await find(queueId);
        expect(again).not.toBeNull();
        expect(await queue.act('discard', again!)).toBe('done');
      });
    });
  });
}
