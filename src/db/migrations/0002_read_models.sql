-- Up Migration

-- Whoever holds a row's lock applies the next page; rows and checkpoint commit together.
create table projection_checkpoints (
  name text primary key,
  version int not null,
  position bigint not null default 0,
  updated_at timestamptz not null default now()
);

-- Keys without names and without secrets: those are erased with their subject, elsewhere.
create table api_keys (
  id bigint primary key,
  revision bigint not null,
  status text not null,
  scope text not null,
  mail_domain bigint,
  rate_limit_per_minute int not null,
  expires_at timestamptz,
  owner_type text not null,
  owner_id text not null,
  predecessor bigint,
  successor bigint,
  grace_until timestamptz,
  bucket bigint not null,
  created_at timestamptz not null,
  revoked_at timestamptz,
  ended_at timestamptz,
  ended_by text
);
create index api_keys_owner on api_keys (owner_type, owner_id);
create index api_keys_mail_domain on api_keys (mail_domain) where mail_domain is not null;
create index api_keys_predecessor on api_keys (predecessor) where predecessor is not null;

create table mail_domains (
  id bigint primary key,
  stream text not null,
  revision bigint not null,
  settings jsonb not null,
  backend_servers jsonb not null,
  created_at timestamptz not null,
  updated_at timestamptz not null
);

-- Requests refused for want of a token, per key and minute.
create table rate_limit_denials (
  key_id bigint not null,
  minute timestamptz not null,
  denied bigint not null,
  primary key (key_id, minute)
);
