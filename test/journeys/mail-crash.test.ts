import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CRASH_KINDS } from '../support/crash.ts';
import {
  FAULTLESS,
  type FoundMail,
  judgeMail,
  type MailRound,
  type MailWorld,
  mailCrashRound,
  mailFigures,
  makeMailWorld,
  seededRandom,
} from '../support/mail-crash.ts';
import { cleanUp, makeHome } from '../support/program.ts';

// The number of rounds for every release is in mail-crash.soak.ts.

const SEED = Number(process.env['MAIL_CRASH_SEED'] ?? Date.now() % 1_000_000);

describe('kill -9 while mail comes in and is released', () => {
  const rounds: MailRound[] = [];
  let world: MailWorld;
  beforeAll(async () => {
    world = await makeMailWorld(makeHome(), seededRandom(SEED));
  });
  afterAll(async () => {
    process.stdout.write(mailFigures(world, rounds, SEED));
    await cleanUp();
    await world.stop();
  }, 60_000);

  it.each(CRASH_KINDS)(
    'of the %s loses no message, and delivers none twice without a word',
    async (kind) => {
      const round = await mailCrashRound(kind, world);
      rounds.push(round);
      expect([SEED, world.book.surprises.splice(0)]).toEqual([SEED, []]);
      expect([SEED, round.verdict]).toEqual([SEED, FAULTLESS]);
    },
    90_000,
  );

  it('met clients in mid-request, releases under way and jobs of several messages', () => {
    expect(world.book.broken).toBeGreaterThan(0);
    const types = rounds.at(-1)?.found.events.map(({ type }) => type) ?? [];
    for (const type of ['released', 'discarded', 'bulk_requested', 'bulk_ended']) {
      expect(types).toContain(`quarantine.${type}`);
    }
  });

  describe('would have been noticed (control)', () => {
    const judged = (doctored: Partial<FoundMail>) =>
      judgeMail(world.book, { ...rounds.at(-1)!.found, ...doctored });
    const found = () => rounds.at(-1)!.found;
    const inState = (state: string) => found().items.find((item) => item.state === state)!;
    const without = <T>(list: readonly T[], one: T) => list.filter((item) => item !== one);
    /** A copy of a message that was delivered once, without any doubt. */
    const delivered = () => {
      const doubtful = found().events.filter(({ type }) => type.endsWith('release_interrupted'));
      const ids = new Set(doubtful.map(({ resource }) => resource.id));
      return found().arrivals.find(({ id }) => !ids.has(id ?? ''))!;
    };

    it('a message that was acknowledged and is gone, or there twice', () => {
      const item = inState('held');
      expect(judged({ items: without(found().items, item) }).lost).toHaveLength(1);
      expect(judged({ items: [...found().items, { ...item }] }).lost).toHaveLength(1);
    });
    it('a changed byte: downloaded, on the disk, or delivered', () => {
      const { id } = inState('held');
      const other = new Map([[id, 'other']]);
      expect(judged({ bodies: other }).altered).toHaveLength(1);
      expect(judged({ files: new Map([...found().files, ...other]) }).altered).toHaveLength(1);
      const copy = delivered();
      const changed = { ...copy, wireDigest: 'other' };
      const arrivals = [...without(found().arrivals, copy), changed];
      expect(judged({ arrivals }).altered).toHaveLength(1);
    });
    it('a file without a message, a message without its file, a leftover of the intake', () => {
      const { files } = found();
      const stray = new Map([...files, [inState('discarded').id, 'x']]);
      expect(judged({ files: stray }).stray).toHaveLength(1);
      const { id } = inState('held');
      const missing = new Map([...files].filter(([name]) => name !== id));
      expect(judged({ files: missing }).stray).toHaveLength(1);
      expect(judged({ incoming: ['x'] }).stray).toHaveLength(1);
    });
    it('a release that reached nobody', () => {
      const arrivals = without(found().arrivals, delivered());
      expect(judged({ arrivals }).undelivered).toHaveLength(1);
    });
    it('a second delivery that its history does not explain', () => {
      const copy = delivered();
      const again = { ...copy, atMs: copy.atMs + 3_000 };
      expect(judged({ arrivals: [...found().arrivals, again] }).unexplained).toHaveLength(1);
    });
    it('an explanation that came too late', () => {
      const interrupted = { type: 'quarantine.release_interrupted', stream: 's', revision: '0' };
      const copy = delivered();
      const again = { ...copy, atMs: copy.atMs + 3_000 };
      const explained = (atMs: number) =>
        judged({
          arrivals: [...found().arrivals, again],
          events: [
            ...found().events,
            {
              ...interrupted,
              resource: { type: 'quarantined_message', id: copy.id },
              recorded_at: new Date(atMs).toISOString(),
              data: {},
            } as never,
          ],
        }).unexplained.length;
      expect(explained(copy.atMs + 1_500)).toBe(0);
      expect(explained(copy.atMs + 6_000)).toBe(1);
      expect(explained(copy.atMs - 3_000)).toBe(1);
    });
    it('a delivery that nobody asked for, and one of a discarded message', () => {
      for (const state of ['held', 'discarded']) {
        const { serial, id } = inState(state);
        const sent = world.book.sent.find((one) => one.serial === serial)!;
        const { wireDigest, to } = sent;
        const arrival = { serial, id, recipient: to[0]!, wireDigest, atMs: 0 };
        expect(judged({ arrivals: [...found().arrivals, arrival] }).unasked).toHaveLength(1);
      }
    });
    it('an acknowledged release or discard that did not come about', () => {
      for (const state of ['released', 'discarded']) {
        const item = inState(state);
        const items = [...without(found().items, item), { ...item, state: 'held' }];
        expect(judged({ items }).undone).toHaveLength(1);
      }
    });
    it('a job without an end, or with a message without an outcome', () => {
      const [job, ...others] = found().jobs;
      const running = { ...job!, state: 'running' };
      expect(judged({ jobs: [running, ...others] }).undone).toHaveLength(1);
      const open = { ...job!, outcomes: [null, ...job!.outcomes.slice(1)] };
      expect(judged({ jobs: [open, ...others] }).undone).toHaveLength(1);
    });
    it('a hole in the log', () => {
      const events = without(found().events, found().events[10]!);
      expect(judged({ events }).disorder).not.toEqual([]);
    });
  });
});
