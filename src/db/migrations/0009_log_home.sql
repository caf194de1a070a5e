-- Up Migration

-- Where the log lived when it was last opened: server, timeline, database. Another home means that it was restored or
-- taken over, perhaps without its last positions, and begins an epoch. Null until the first start knows it.
alter table eventlog.log_info add column home text;
