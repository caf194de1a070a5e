-- Up Migration

-- Read models beside those that serve: one that is folded anew (`rebuild`), and the one that served until the last
-- flip (`previous`). Their tables stand in a schema of their own, rebuild_NAME or previous_NAME.
create table projection_copies (
  name text not null,
  kind text not null check (kind in ('rebuild', 'previous')),
  version int not null,
  -- Whoever holds a row's lock applies the next page to the copy; its rows and this commit together.
  position bigint not null,
  tables text[] not null,
  updated_at timestamptz not null default now(),
  primary key (name, kind)
);

-- The schema of a copy. What is no read model has none, so no other schema can be made or dropped by the functions below.
create function projection_schema(projection text, kind text) returns text
language plpgsql stable set search_path = public, pg_temp as $$
begin
  if projection ~ '^[a-z][a-z0-9_]{0,39}$' and kind in ('rebuild', 'previous')
    and exists (select from projection_checkpoints c where c.name = projection)
  then
    return kind || '_' || projection;
  end if;
  raise exception 'no read model has a copy %, %', projection, kind using errcode = 'invalid_parameter_value';
end $$;

-- A table that whoever works here may fill and empty, and so may see replaced; of another one no copy is made.
create function require_own_table(name text) returns regclass
language plpgsql stable set search_path = public, pg_temp as $$
declare
  own regclass := to_regclass(format('public.%I', name));
  worker text := coalesce(nullif(current_setting('role'), 'none'), session_user::text);
begin
  if own is not null
    and exists (select from pg_class c where c.oid = own and c.relkind = 'r')
    and has_table_privilege(worker, own, 'insert') and has_table_privilege(worker, own, 'delete')
    and has_table_privilege(worker, own, 'update') and has_table_privilege(worker, own, 'select')
  then
    return own;
  end if;
  raise exception 'no table of a read model is called %', name using errcode = 'invalid_parameter_value';
end $$;

-- Makes the tables of a copy that it does not have yet, empty: columns, constraints, indexes and privileges as those in
-- public have them. Also the names, since later migrations go by them once the copy has been swapped in.
create function add_projection_copy(projection text, kind text, tables text[]) returns void
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '5s' as $$
declare
  copy text := projection_schema(projection, kind);
  own regclass;
  t text;
  made record;
begin
  execute format('create schema if not exists %I', copy);
  foreach t in array tables loop
    if to_regclass(format('%I.%I', copy, t)) is not null then continue; end if;
    own := require_own_table(t);
    execute format('create table %I.%I (like public.%I including all excluding indexes)', copy, t, t);
    for made in select conname, pg_get_constraintdef(oid) as definition from pg_constraint
      where conrelid = own and contype in ('p', 'u', 'x') order by conname
    loop
      execute format('alter table %I.%I add constraint %I %s', copy, t, made.conname, made.definition);
    end loop;
    for made in select pg_get_indexdef(i.indexrelid) as definition from pg_index i
      where i.indrelid = own and not exists (select from pg_constraint c
        where c.conindid = i.indexrelid and c.contype in ('p', 'u', 'x'))
    loop
      execute replace(made.definition,
        format(' ON public.%I USING ', t), format(' ON %I.%I USING ', copy, t));
    end loop;
    for made in
      select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee,
             string_agg(a.privilege_type, ', ') as privileges
      from pg_class c, aclexplode(c.relacl) a where c.oid = own and a.grantee <> c.relowner group by 1
    loop
      execute format('grant usage on schema %I to %s', copy, made.grantee);
      execute format('grant %s on %I.%I to %s', made.privileges, copy, t, made.grantee);
    end loop;
  end loop;
end $$;

-- So that the first reader after a flip has the plans of the last one before it.
create function analyze_projection_copy(projection text, kind text, tables text[]) returns void
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '5s' as $$
declare
  t text;
begin
  foreach t in array tables loop
    execute format('analyze %I.%I', projection_schema(projection, kind), t);
  end loop;
end $$;

-- Puts the tables of a copy in the place of those in public, which become the previous ones, or, unless they are to be
-- kept, are dropped. Whoever wants one of them waits for as long as this does: at most a tenth of a second a table.
-- Only the server's own vacuum takes longer to give way, a second, and readers do not wait for a lock against that.
create function swap_projection_copy(projection text, kind text, tables text[], keep boolean) returns void
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '2s' as $$
declare
  incoming text := projection_schema(projection, kind);
  previous text := projection_schema(projection, 'previous');
  outgoing text := 'outgoing_' || projection;
  grantee text;
  t text;
begin
  foreach t in array tables loop
    perform require_own_table(t);
    execute format('lock table %I.%I in access exclusive mode', incoming, t);
    execute format('lock table public.%I in share update exclusive mode', t);
  end loop;
  perform set_config('lock_timeout', '100ms', true);
  foreach t in array tables loop
    execute format('lock table public.%I in access exclusive mode', t);
  end loop;
  execute format('create schema %I', outgoing);
  for grantee in
    select distinct case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
    from pg_namespace n, aclexplode(n.nspacl) a where n.nspname = incoming and a.grantee <> n.nspowner
  loop
    execute format('grant usage on schema %I to %s', outgoing, grantee);
  end loop;
  foreach t in array tables loop
    execute format('alter table public.%I set schema %I', t, outgoing);
    execute format('alter table %I.%I set schema public', incoming, t);
  end loop;
  -- With what the copy has beside its tables: scratch.
  execute format('drop schema %I cascade', incoming);
  execute format('drop schema if exists %I cascade', previous);
  if keep then
    execute format('alter schema %I rename to %I', outgoing, previous);
  else
    execute format('drop schema %I cascade', outgoing);
  end if;
end $$;

create function drop_projection_copy(projection text, kind text) returns void
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '2s' as $$
begin
  execute format('drop schema if exists %I cascade', projection_schema(projection, kind));
end $$;

do $$
begin
  revoke execute on function projection_schema, require_own_table, add_projection_copy,
    analyze_projection_copy, swap_projection_copy, drop_projection_copy from public;
  if exists (select from pg_roles where rolname = 'mailguard_app') then
    grant select, insert, update, delete on projection_copies to mailguard_app;
    grant execute on function add_projection_copy, analyze_projection_copy, swap_projection_copy,
      drop_projection_copy to mailguard_app;
  end if;
end
$$;
