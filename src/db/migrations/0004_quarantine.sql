-- Up Migration

-- Held mail as it is listed. The envelope and the subject are here for the searches; what was sealed with the
-- event is the truth, and is erased with it.
create table quarantined_messages (
  id uuid primary key,
  revision bigint not null,
  state text not null,
  is_open boolean not null,
  node_id text collate "C" not null,
  queue_id text collate "C" not null,
  sender text,
  -- [{"mail_domain": 7 or null, "addresses": [...]}], in the order in which events count recipients.
  recipients jsonb not null,
  subject text,
  message_id text,
  score double precision,
  symbols text[] not null,
  reason text not null,
  size_bytes bigint not null,
  arrived_at timestamptz not null,
  expires_at timestamptz not null,
  mail_domains bigint[] not null,
  -- Whether the store should still have its bytes: also of a released one, until its retention ends.
  has_content boolean not null default true,
  -- Results of the last release or rejection, per recipient.
  results jsonb not null default '{}'
);
create index quarantined_messages_newest on quarantined_messages (is_open, arrived_at desc, id desc);
create index quarantined_messages_queue on quarantined_messages (node_id, queue_id);
create index quarantined_messages_due on quarantined_messages (expires_at) where has_content;

-- An inverted index of what is searched for exactly: `domain:7`, `sender:a@b`, `symbol:X`, … Its order is the
-- list's own, so that a page of matches costs a page, however many messages there are.
create table quarantine_terms (
  term text collate "C" not null,
  is_open boolean not null,
  arrived_at timestamptz not null,
  message_id uuid not null,
  primary key (term, is_open, arrived_at, message_id)
);

-- Actions that were asked for and have no outcome yet, and when to try (again).
create table quarantine_intents (
  message_id uuid not null,
  kind text not null,
  due_at timestamptz not null,
  primary key (message_id, kind)
);
create index quarantine_intents_due on quarantine_intents (due_at);

-- Bulk jobs and their items: work in progress. What each of them did is in the log.
create table quarantine_jobs (
  id uuid primary key,
  request jsonb not null,
  state text not null,
  created_at timestamptz not null,
  ended_at timestamptz
);
create index quarantine_jobs_open on quarantine_jobs (created_at) where ended_at is null;
create table quarantine_job_items (
  job_id uuid not null references quarantine_jobs on delete cascade,
  ordinal int not null,
  message_id uuid not null,
  outcome text,
  error text,
  primary key (job_id, ordinal)
);

create table sender_filters (
  id bigint primary key,
  revision bigint not null,
  kind text not null,
  scope text not null,
  mail_domain bigint,
  sender text not null,
  recipient text,
  expires_at timestamptz,
  made_by_message uuid,
  created_at timestamptz not null
);
create index sender_filters_mail_domain on sender_filters (mail_domain, id);
create index sender_filters_due on sender_filters (expires_at) where expires_at is not null;

create sequence sender_filter_ids;

do $$
begin
  if exists (select from pg_roles where rolname = 'mailguard_app') then
    grant select, insert, update, delete on quarantined_messages, quarantine_terms,
      quarantine_intents, quarantine_jobs, quarantine_job_items, sender_filters to mailguard_app;
    grant usage, select, update on sequence sender_filter_ids to mailguard_app;
  end if;
end
$$;
