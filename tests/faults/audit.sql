-- What a run of the fault suite writes down beside the product's own tables: every change of what a
-- trial owns, with the token that the writing statement named and the one that held the lease then.

create schema chaos;

create table chaos.log (
    id     bigserial primary key,
    at     double precision not null default extract(epoch from clock_timestamp()), -- s since 1970
    what   text not null,                    -- table
    op     text not null,                    -- INSERT | UPDATE | DELETE
    trial  integer,
    caller uuid,                             -- the first uuid in the client's statement: its token
    holder uuid,                             -- the lease's, before the change
    before jsonb,
    after  jsonb
);

create function chaos.note() returns trigger language plpgsql as $$
declare
    was jsonb := case when TG_OP <> 'INSERT' then to_jsonb(old) end;
    now jsonb := case when TG_OP <> 'DELETE' then to_jsonb(new) end;
    id_of integer := (coalesce(now, was) ->> 'trial_id')::integer;
begin
    insert into chaos.log (what, op, trial, caller, holder, before, after)
    select TG_TABLE_NAME, TG_OP, id_of,
           substring(current_query() from
                     '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}')::uuid,
           case when TG_TABLE_NAME = 'lease' then (was ->> 'token')::uuid
                else (select l.token from hpo.lease l where l.trial_id = id_of) end,
           was, now;
    return null;
end $$;

create trigger chaos after insert or update or delete on hpo.epoch
    for each row execute function chaos.note();
create trigger chaos after insert or update or delete on hpo.checkpoint
    for each row execute function chaos.note();
create trigger chaos after insert or update or delete on hpo.attempt
    for each row execute function chaos.note();
create trigger chaos after insert or update or delete on hpo.artifact
    for each row execute function chaos.note();
create trigger chaos after insert or update or delete on hpo.promotion
    for each row execute function chaos.note();
create trigger chaos after update on public.trials for each row
    when (old.state is distinct from new.state) execute function chaos.note();
create trigger chaos_new after insert or delete on hpo.lease
    for each row execute function chaos.note();
-- Renewals change the expiry alone; of those only the last before a takeover matters, and it stands
-- in the takeover's `before`.
create trigger chaos after update on hpo.lease for each row
    when (old.token is distinct from new.token or old.told_at is distinct from new.told_at
          or old.released is distinct from new.released)
    execute function chaos.note();
