-- Up Migration

-- The service's role. Where it cannot be made (a hosted database), the triggers below still refuse every
-- change of the log, and readiness says that the privileges are missing.
do $$
begin
  if not exists (select from pg_roles where rolname = 'mailguard_app') then
    create role mailguard_app nologin;
  end if;
  -- Since PostgreSQL 16 whoever makes a role may administer it, which is not yet to become it.
  if current_setting('server_version_num')::int >= 160000 then
    if not pg_has_role(current_user, 'mailguard_app', 'set') then
      execute format('grant mailguard_app to %I with set true', current_user);
    end if;
  elsif not pg_has_role(current_user, 'mailguard_app', 'member') then
    execute format('grant mailguard_app to %I', current_user);
  end if;
exception
  when insufficient_privilege then raise notice 'role mailguard_app cannot be created here';
  when duplicate_object or unique_violation then null;
end $$;

create schema eventlog;

create table eventlog.log_info (
  one boolean primary key default true check (one),
  -- Identity of this log; with the epoch it goes into every cursor.
  log_id uuid not null default gen_random_uuid(),
  -- Grows when a restore may have taken positions back.
  epoch int not null default 1,
  -- The audit minimum: positions below it have been archived away.
  minimum_position bigint not null default 1
);
insert into eventlog.log_info default values;

create table eventlog.events (
  position bigint not null,
  revision bigint not null,
  recorded_at timestamptz not null,
  event_id uuid not null,
  stream text collate "C" not null,
  type text collate "C" not null,
  actor text collate "C" not null,
  resource text collate "C" not null,
  -- text, not json: it is hashed and handed out byte for byte, and parsing it here would cost every append.
  line text collate "C" not null,
  constraint events_pkey primary key (position),
  constraint events_stream_revision unique (stream, revision),
  constraint events_event_id unique (event_id),
  constraint events_place check (position > 0 and revision >= 0),
  constraint events_line_bytes check (octet_length(line) <= 65535)
) with (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_freeze_min_age = 0);
-- A line of ordinary size stays in its row: exports read the table once, not a side table per row.
alter table eventlog.events alter column line set storage main;

create index events_actor on eventlog.events (actor, position);
create index events_resource on eventlog.events (resource, position);
create index events_type on eventlog.events (type, position);

create table eventlog.event_mail_domains (
  mail_domain bigint not null,
  position bigint not null,
  constraint event_mail_domains_pkey primary key (mail_domain, position)
) with (autovacuum_vacuum_insert_scale_factor = 0.05);

-- Personal values, outside the committed line so that they can be erased. Each column is a comma-joined list
-- of JSON strings (SD-JWT disclosures). The position is for reading beside the events in one pass.
create table eventlog.event_personal (
  event_id uuid not null,
  position bigint,
  identity text collate "C",
  network text collate "C",
  content text collate "C",
  constraint event_personal_pkey primary key (event_id)
) with (autovacuum_vacuum_insert_scale_factor = 0.05);
create index event_personal_position on eventlog.event_personal (position);
-- Erasing a busy key must not visit each minute of its use: those rows hold nothing of class identity.
create index event_personal_identity on eventlog.event_personal (position) where identity is not null;

-- One erasable row per subject: what a reader sees as its name, and the disclosures of the events that set it.
create table eventlog.subject_names (
  subject text collate "C" primary key,
  name text not null,
  key_prefix text,
  -- event id -> comma-joined list of JSON strings
  disclosures jsonb not null
);

create function eventlog.refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '%.% is append-only: % refused', tg_table_schema, tg_table_name, tg_op
    using errcode = 'restrict_violation';
end $$;

create trigger events_no_change before update or delete on eventlog.events
  for each statement execute function eventlog.refuse_change();
create trigger events_no_truncate before truncate on eventlog.events
  for each statement execute function eventlog.refuse_change();
create trigger event_mail_domains_no_change before update or delete on eventlog.event_mail_domains
  for each statement execute function eventlog.refuse_change();
create trigger event_mail_domains_no_truncate before truncate on eventlog.event_mail_domains
  for each statement execute function eventlog.refuse_change();
-- ALWAYS: also for a session that calls itself a replica.
alter table eventlog.events enable always trigger events_no_change;
alter table eventlog.events enable always trigger events_no_truncate;
alter table eventlog.event_mail_domains enable always trigger event_mail_domains_no_change;
alter table eventlog.event_mail_domains enable always trigger event_mail_domains_no_truncate;

-- The only way in. One call appends many commands (group commit) and says how each ended.
--
-- Positions are gapless and in commit order. The head is read by a statement that begins after the lock is
-- held, so it sees every batch that committed before; a writer that ignores the lock meets the primary key.
-- Lock 7310001 is listed in src/db/lock.ts.
--
-- Expected revision: -2 any, -1 no stream, -4 stream exists, n exactly n. e_ordinal counts from 1 in a command.
create function eventlog.append_batch(
  c_stream text[], c_expected bigint[], c_count int[], c_first uuid[],
  e_command int[], e_ordinal int[], e_id uuid[], e_type text[], e_actor text[], e_resource text[],
  e_head text[], e_mid text[], e_tail text[],
  e_identity text[], e_network text[], e_content text[],
  d_event int[], d_mail_domain bigint[],
  n_names jsonb)
returns table (command int, outcome text, last_revision bigint, last_position bigint, at text)
language plpgsql volatile security definer
set search_path = eventlog, pg_temp
-- A plan cached while the table was small would scan it for ever.
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_head bigint;
  v_last timestamptz;
  v_now timestamptz;
  v_at text;
  v_end bigint;
begin
  -- A reader acts on what it sees, so what it sees must survive a crash.
  if current_setting('synchronous_commit') <> 'on' then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  perform pg_advisory_xact_lock(7310001);
  select e.position, e.recorded_at into v_head, v_last
    from eventlog.events e order by e.position desc limit 1;
  v_head := coalesce(v_head, 0);
  -- Greater than the last batch's even when the clock stepped back.
  v_now := greatest(clock_timestamp(), coalesce(v_last + interval '1 microsecond', '-infinity'));
  v_at := to_char(v_now at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
  return query
  with commands as materialized (
    select t.ord::int as command, t.expected, t.n,
           coalesce((select e.revision from eventlog.events e
                     where e.stream = t.stream order by e.revision desc limit 1), -1) as revision,
           d.position as dup_position, d.revision as dup_revision, d.recorded_at as dup_at
    from unnest(c_stream, c_expected, c_count, c_first)
         with ordinality t(stream, expected, n, first, ord)
    left join lateral (select e.position, e.revision, e.recorded_at from eventlog.events e
                       where e.event_id = t.first) d on true
  ), judged as materialized (
    select c.*, (c.dup_position is null
                 and (expected = -2 or expected = revision or (expected = -4 and revision >= 0))) as ok
    from commands c
  ), counted as materialized (
    select j.*, sum(case when j.ok then j.n else 0 end) over (order by j.command) as upto from judged j
  ), placed as materialized (
    select e.ord::int as ord, e.id, e.type, e.actor, e.resource, e.head, e.mid, e.tail,
           e.identity, e.network, e.content, c_stream[e.command] as stream,
           (v_head + p.upto - p.n + e.ordinal)::bigint as position,
           (p.revision + e.ordinal)::bigint as revision
    from unnest(e_command, e_ordinal, e_id, e_type, e_actor, e_resource,
                e_head, e_mid, e_tail, e_identity, e_network, e_content)
         with ordinality e(command, ordinal, id, type, actor, resource,
                           head, mid, tail, identity, network, content, ord)
    join counted p on p.command = e.command and p.ok
  ), new_events as (
    insert into eventlog.events
      (position, revision, recorded_at, event_id, stream, type, actor, resource, line)
    select position, revision, v_now, id, stream, type, actor, resource,
           head || position || '","recorded_at":"' || v_at || mid || revision || tail
    from placed order by position
  ), new_personal as (
    insert into eventlog.event_personal (event_id, position, identity, network, content)
    select id, position, identity, network, content from placed
    where identity is not null or network is not null or content is not null
    order by position
  ), new_mail_domains as (
    insert into eventlog.event_mail_domains (mail_domain, position)
    select d.mail_domain, p.position
    from unnest(d_event, d_mail_domain) d(event, mail_domain)
    join placed p on p.ord = d.event
  ), new_names as (
    insert into eventlog.subject_names as s (subject, name, key_prefix, disclosures)
    select n.subject, n.name, n.key_prefix, jsonb_build_object(p.id, n.disclosures)
    from jsonb_to_recordset(n_names)
         n(event int, subject text, name text, key_prefix text, disclosures text)
    join placed p on p.ord = n.event
    on conflict (subject) do update
      set name = excluded.name,
          key_prefix = coalesce(excluded.key_prefix, s.key_prefix),
          disclosures = s.disclosures || excluded.disclosures
  )
  select p.command,
         case when p.ok then 'appended' when p.dup_position is not null then 'duplicate' else 'conflict' end,
         case when p.ok then p.revision + p.n
              when p.dup_position is not null then p.dup_revision + p.n - 1
              else p.revision end,
         case when p.ok then (v_head + p.upto)::bigint
              when p.dup_position is not null then p.dup_position + p.n - 1 end,
         case when p.ok then v_at
              when p.dup_position is not null
              then to_char(p.dup_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') end
  from counted p order by p.command;
  -- The new head as a hint for followers in other processes; they find the truth by reading.
  select e.position into v_end from eventlog.events e order by e.position desc limit 1;
  if v_end > v_head then perform pg_notify('mailguard_log', v_end::text); end if;
end $$;

-- The last position recorded before a time, 0 if none: recorded times grow with dense positions, so some
-- twenty probes of the primary key replace an index on the time.
create function eventlog.position_before(t timestamptz) returns bigint
language plpgsql stable set search_path = eventlog, pg_temp as $$
declare
  low bigint;
  high bigint;
  middle bigint;
  at timestamptz;
begin
  select min(position) - 1 into low from eventlog.events;
  select max(position) + 1 into high from eventlog.events;
  if low is null then return 0; end if;
  while high - low > 1 loop
    middle := (low + high) / 2;
    select recorded_at into at from eventlog.events where position = middle;
    if at < t then low := middle; else high := middle; end if;
  end loop;
  return low;
end $$;

-- Forgets what a subject was called. The committed lines, and so every proof over them, stay as they are.
create function eventlog.erase_subject(subject_key text) returns void
language plpgsql volatile security definer set search_path = eventlog, pg_temp as $$
begin
  delete from eventlog.subject_names where subject = subject_key;
  delete from eventlog.event_personal p using eventlog.events e
  where e.resource = subject_key and p.position = e.position
    and p.identity is not null and p.network is null and p.content is null;
  update eventlog.event_personal p set identity = null from eventlog.events e
  where e.resource = subject_key and p.position = e.position and p.identity is not null;
end $$;

do $$
begin
  if exists (select from pg_roles where rolname = 'mailguard_app') then
    grant usage on schema eventlog to mailguard_app;
    grant select on all tables in schema eventlog to mailguard_app;
    revoke execute on all functions in schema eventlog from public;
    grant execute on function eventlog.append_batch, eventlog.position_before,
      eventlog.erase_subject, eventlog.refuse_change to mailguard_app;
  end if;
end $$;
