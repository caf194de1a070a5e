-- Up Migration

-- Where a key may be used from. The flag is what the log's line says; the list is personal and may be erased, which
-- leaves the key closed.
alter table api_keys
  add column restricted boolean not null default false,
  add column allowed_cidrs jsonb;
