-- Up Migration

-- Where the bytes are, and of the hold queue the file that was meant: a queue id alone may be used again.
alter table quarantined_messages
  add column store text not null default 'spool',
  add column held_by text,
  add column file_size bigint,
  add column file_mtime text collate "C";
create index quarantined_messages_in_hold on quarantined_messages (node_id, queue_id)
  where store = 'postfix' and is_open;

-- What a filter said of mail that the hold queue shows at about that time; kept for an hour at most.
create table quarantine_announcements (
  node_id text collate "C" not null,
  queue_id text collate "C" not null,
  announced_at timestamptz not null,
  score double precision,
  symbols text[] not null,
  reason text not null,
  client_ip text,
  primary key (node_id, queue_id)
);
create index quarantine_announcements_oldest on quarantine_announcements (node_id, announced_at);

do $$
begin
  if exists (select from pg_roles where rolname = 'mailguard_app') then
    grant select, insert, update, delete on quarantine_announcements to mailguard_app;
  end if;
end
$$;
