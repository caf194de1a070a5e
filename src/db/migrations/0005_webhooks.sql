-- Up Migration

-- Secrets that must be known to be used are sealed under the master key; verifiers are keyed. Either way
-- this table alone lets nobody in. A subject may have several: the newest of a webhook, and those in grace.
alter table credentials alter column verifier drop not null;
alter table credentials alter column pepper drop not null;
alter table credentials add column sealed bytea;
alter table credentials add check ((verifier is null) <> (sealed is null));
alter table credentials drop constraint credentials_pkey;
alter table credentials add primary key (subject, kind, lookup);
alter table credentials drop constraint credentials_kind_lookup_key;
create unique index credentials_api_key on credentials (lookup) where kind = 'api_key';

create sequence webhook_ids;
create sequence webhook_replay_ids;

-- Subscriptions as they are set; where each stands in the log is its cursor's.
create table webhooks (
  id bigint primary key,
  revision bigint not null,
  status text not null,
  cause text,
  url text not null,
  description text,
  mail_domain bigint,
  ordering text not null,
  -- [{"epoch": 1, "after": "12", "event_types": ["*"], "skips": false}], oldest first: which filter counts from where.
  epochs jsonb not null,
  -- [{"fingerprint": "…", "until": null}], the one that signs first at the front.
  secrets jsonb not null,
  failing_since timestamptz,
  created_at timestamptz not null,
  updated_at timestamptz not null
);
create index webhooks_mail_domain on webhooks (mail_domain, id);

-- Processes that deliver. One row is renewed, however many subscriptions its process has.
create table webhook_workers (
  id uuid primary key,
  node_id text not null,
  lease_until timestamptz not null
);

-- One row of state a subscription, however far it is behind. Everything at or below `position` is delivered
-- or stands in the retry set; between it and `sent_to` something may have been sent.
create table webhook_cursors (
  webhook_id bigint primary key,
  epoch int not null,
  position bigint not null,
  sequence bigint not null,
  sent_to bigint not null,
  -- Whether its last owner put everything down before it went.
  is_clean boolean not null default true,
  owner uuid,
  -- Grows with each owner: writes of a former one find another token and change nothing.
  token bigint not null default 0,
  breaker jsonb not null default '{}',
  quiet_until timestamptz
) with (fillfactor = 50);

create table webhook_retries (
  webhook_id bigint not null,
  position bigint not null,
  event_id uuid not null,
  key text collate "C" not null,
  epoch int not null,
  -- Null: before the first epoch.
  sequence bigint,
  tries int not null,
  due_at timestamptz not null,
  first_failed_at timestamptz not null,
  last_outcome text,
  -- retrying, or parked: given up, until somebody sends it again.
  state text not null,
  -- Set before a try, so that a crash leaves a mark.
  is_sending boolean not null default false,
  -- When somebody last asked for it. What its owner writes without knowing of that undoes nothing of it.
  asked_at timestamptz,
  primary key (webhook_id, position)
);

-- What was posted, by day, so that forgetting is a table dropped.
create table webhook_attempts (
  webhook_id bigint not null,
  position bigint not null,
  started_at timestamptz not null,
  event_id uuid not null,
  type text collate "C" not null,
  kind text collate "C" not null,
  tries int not null,
  outcome text collate "C" not null,
  status smallint,
  ms int not null,
  body_sha256 bytea,
  -- Fingerprints of the secrets that signed.
  signed_by text,
  peer text,
  replay_id bigint,
  error text,
  excerpt text
) partition by range (started_at);
create index webhook_attempts_event on webhook_attempts (webhook_id, position, started_at);

create table webhook_replays (
  id bigint primary key,
  webhook_id bigint not null,
  after_position bigint not null,
  until_position bigint not null,
  event_types text[],
  -- running, cancelled or completed.
  state text not null,
  position bigint not null,
  sent_to bigint not null,
  delivered bigint not null default 0,
  failed bigint not null default 0,
  created_at timestamptz not null,
  ended_at timestamptz
) with (fillfactor = 50);
create index webhook_replays_of on webhook_replays (webhook_id, id);

-- The days from one on get their tables. As the owner's, since the service may make none. Made apart and then
-- attached: a table made as a partition would wait for every writer, and keep all others waiting meanwhile.
create function ensure_webhook_attempt_days(first_day date, days int) returns void
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '5s' as $$
declare
  d date;
  name text;
begin
  for d in select first_day + g from generate_series(0, days - 1) g loop
    name := 'webhook_attempts_' || to_char(d, 'YYYYMMDD');
    if to_regclass(name) is null then
      execute format('create table %I (like webhook_attempts including all)', name);
      execute format(
        'alter table webhook_attempts attach partition %I for values from (%L) to (%L)',
        name, d::timestamp at time zone 'UTC', (d + 1)::timestamp at time zone 'UTC');
    end if;
  end loop;
end $$;

-- Takes the oldest day before one out of the table: true when there was one. Only the catalogue is changed under
-- the lock; whoever is writing makes it give way, and it is tried again.
create function detach_webhook_attempt_day(before date) returns boolean
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '50ms' as $$
declare
  name text;
begin
  select c.relname into name from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'webhook_attempts'::regclass
      and c.relname < 'webhook_attempts_' || to_char(before, 'YYYYMMDD')
    order by c.relname limit 1;
  if name is null then return false; end if;
  execute format('alter table webhook_attempts detach partition %I', name);
  return true;
exception when lock_not_available then return false;
end $$;

-- Drops a day that was taken out: true when there was one. Nobody can be writing to it.
create function drop_webhook_attempt_day() returns boolean
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '1s' as $$
declare
  name text;
begin
  select c.relname into name from pg_class c
    where c.relname ~ '^webhook_attempts_\d{8}$' and c.relkind = 'r' and not c.relispartition
      and c.relnamespace = 'public'::regnamespace
    limit 1;
  if name is null then return false; end if;
  execute format('drop table %I', name);
  return true;
exception when lock_not_available then return false;
end $$;

do $$
begin
  revoke execute on function ensure_webhook_attempt_days, detach_webhook_attempt_day,
    drop_webhook_attempt_day from public;
  if exists (select from pg_roles where rolname = 'mailguard_app') then
    grant select, insert, update, delete on webhooks, webhook_workers, webhook_cursors,
      webhook_retries, webhook_attempts, webhook_replays to mailguard_app;
    grant usage, select, update on sequence webhook_ids, webhook_replay_ids to mailguard_app;
    grant execute on function ensure_webhook_attempt_days, detach_webhook_attempt_day,
      drop_webhook_attempt_day to mailguard_app;
  end if;
end
$$;
