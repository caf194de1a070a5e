import type pg from 'pg';
import type { ProjectedEvent, Projection } from '../../src/projections/projection.ts';
import { asAdmin } from './database.ts';

/** Makes the table of a tally: how many events each stream has. One that is applied twice counts twice. */
export const makeTally = (url: string): Promise<void> =>
  asAdmin(
    url,
    `create table tally (stream text collate "C" primary key, events bigint not null default 0);
     create index tally_busiest on tally (events desc) where events > 1;
     alter table tally add constraint tally_counts check (events >= 0);
     grant select, insert, update, delete on tally to mailguard_app`,
  );

type Options = Readonly<{
  version?: number;
  /** What an event counts. */
  weight?: number;
  /** Comes after each page, still in its transaction. */
  around?: (events: readonly ProjectedEvent[], db: pg.ClientBase) => unknown;
}>;

/** A projection of `test.happened` that is not repeatable, so that nothing hides what is done twice. */
export const tally = ({ version = 1, weight = 1, around }: Options = {}): Projection => ({
  name: 'tally',
  version,
  types: ['test.happened'],
  tables: ['tally'],
  async apply(db, events) {
    await db.query(
      `insert into tally as t (stream, events)
       select stream, count(*) * $2 from unnest($1::text[]) as e (stream) group by stream
       on conflict (stream) do update set events = t.events + excluded.events`,
      [events.map(({ event }) => event.stream), weight],
    );
    await around?.(events, db);
  },
});
