-- Up Migration

-- State that is not worth an event. Ids are given out once and never reused, also after a rollback.
create sequence api_key_ids;
create sequence mail_domain_ids;

-- Which master key this database belongs to; a start with another one is refused.
create table installation (
  one boolean primary key default true check (one),
  key_fingerprint bytea not null,
  created_at timestamptz not null default now()
);

-- Verifiers of secrets, erased with their subject. The verifier is keyed (HMAC under a numbered pepper), so
-- that this table alone lets nobody in.
create table credentials (
  subject text collate "C" not null,
  kind text not null,
  lookup text collate "C" not null,
  verifier bytea not null,
  pepper int not null,
  created_at timestamptz not null default now(),
  primary key (subject, kind),
  unique (kind, lookup)
);

create table idempotency_keys (
  principal text not null,
  method text not null,
  path text not null,
  key text not null,
  fingerprint bytea not null,
  -- Event ids derive from it: a command that is run again after a crash finds its own events.
  command_id uuid not null,
  -- The run that is under way, as its process knows it; one that no process knows was cut short.
  runner uuid not null,
  status int,
  headers jsonb,
  body text,
  -- Whose names the body holds; erased with them.
  subject text,
  created_at timestamptz not null,
  primary key (principal, method, path, key)
);
create index idempotency_keys_created on idempotency_keys (created_at);
create index idempotency_keys_subject on idempotency_keys (subject) where subject is not null;

-- Bucket levels as last flushed: a restart must not hand out a fresh burst.
create table rate_buckets (
  id bigint primary key,
  level bigint not null,
  at timestamptz not null
);

create table api_key_use (
  key_id bigint primary key,
  first_used_at timestamptz not null,
  last_used_at timestamptz not null
);

-- Windows of use that have not become events yet.
create table open_windows (
  id text primary key,
  body jsonb not null
);

do $$
begin
  if exists (select from pg_roles where rolname = 'mailguard_app') then
    grant usage on schema public to mailguard_app;
    grant select, insert, update, delete on
      projection_checkpoints, api_keys, mail_domains, rate_limit_denials, installation, credentials,
      idempotency_keys, rate_buckets, api_key_use, open_windows to mailguard_app;
    grant usage, select, update on all sequences in schema public to mailguard_app;
  end if;
end $$;
