-- Every function of the schema `hpo` as it is now; env.py says how to change one. The file is run
-- before the numbered migrations, whose defaults and triggers call some of it.
--
-- Claims, leases and fenced writes: each function is one critical section in one transaction; a
-- caller that dies or is paused between two calls holds no lock. Every write for a trial checks, in
-- the same transaction, that the trial still runs and that the caller's token is the lease's. Locks
-- are taken in the order: Optuna's study, our study, trial, lease, worker.

-- Tests replace it to inject the time; nothing else reads a clock.
create or replace function hpo.now() returns timestamptz language sql volatile as
$$ select clock_timestamp() $$;

create or replace function hpo.up_since() returns timestamptz language sql volatile as
$$ select pg_postmaster_start_time() $$;

create or replace function hpo.utc_now() returns timestamp language sql volatile as
$$ select hpo.now() at time zone 'UTC' $$;  -- Optuna 5 stores naive UTC

create or replace function hpo.seconds(p_s double precision) returns interval language sql immutable as
$$ select p_s * interval '1 second' $$;

-- A caller that is paused, or whose machine vanishes, before its commit would keep others from the
-- rows that it has locked, the study's among them: the server ends such a transaction.
create or replace function hpo.hurry() returns void language sql as $$
    select set_config('idle_in_transaction_session_timeout', '5s', true)
$$;

create or replace function hpo.begin_attempt(p_trial integer, p_study integer, p_worker bigint, p_token uuid)
returns void language sql as $$
    insert into hpo.attempt (token, trial_id, study_id, attempt, worker_id, claimed_at)
    select p_token, p_trial, p_study, coalesce(max(a.attempt), 0) + 1, p_worker, hpo.now()
      from hpo.attempt a where a.trial_id = p_trial
$$;

-- A trial that ended its workers again and again without one new epoch is a failure of its own.
create or replace function hpo.give_up(p_trial integer, p_deaths integer) returns void language plpgsql as $$
declare
    text_of constant text := format('%s workers in a row died with it before another epoch', p_deaths);
begin
    update public.trials set state = 'FAIL', datetime_complete = hpo.utc_now()
     where trial_id = p_trial;
    insert into public.trial_user_attributes (trial_id, key, value_json)
    values (p_trial, 'fail_reason', '"crashed"'), (p_trial, 'fail_message', to_json(text_of)::text)
    on conflict (trial_id, key) do update set value_json = excluded.value_json;
    delete from hpo.checkpoint where trial_id = p_trial;
    insert into hpo.lease as l (trial_id, study_id, worker_id, token, expires_at, deaths,
                                told_at, told_state, reason)
    select p_trial, t.study_id, 0, gen_random_uuid(), hpo.now(), p_deaths,
           hpo.now(), 'FAIL', 'crashed: ' || text_of
      from public.trials t where t.trial_id = p_trial
    on conflict (trial_id) do update
       set token = excluded.token, -- told by nobody who may think to hold it
           deaths = excluded.deaths, told_at = excluded.told_at, told_state = 'FAIL',
           reason = excluded.reason;
end $$;

-- Who may run which trial. outcome: trial | lost | wait | finished | stopped | deleted
create or replace function hpo.claim(
    p_study integer, p_worker bigint, p_token uuid, p_lease_s double precision,
    out outcome text, out trial_id integer, out number integer, out takeovers integer,
    out kind text
) language plpgsql as $$
#variable_conflict use_column
declare
    s hpo.study;
    t record;
    held hpo.lease;
    claimed integer;
    dead integer;
    timed_out boolean;
begin
    perform hpo.hurry();
    perform 1 from public.studies st where st.study_id = p_study for update;
    if not found then outcome := 'deleted'; return; end if;
    select * into s from hpo.study h where h.study_id = p_study for update;
    if not found then outcome := 'deleted'; return; end if;
    update hpo.worker w
       set seen_at = hpo.now(), expires_at = hpo.now() + hpo.seconds(p_lease_s)
     where w.worker_id = p_worker;

    -- An acknowledgement that was lost: the same token gets the same trial again, with a whole
    -- lease; or it was lost for so long that another has the trial, and a new token must ask.
    select a.trial_id, tr.number, l.takeovers into t
      from hpo.attempt a left join hpo.lease l on l.trial_id = a.trial_id
      left join public.trials tr on tr.trial_id = a.trial_id
     where a.token = p_token;
    if found then
        if hpo.renew(t.trial_id, p_token, p_lease_s) = 'lost' then outcome := 'lost'; return; end if;
        outcome := 'trial'; kind := 'again';
        trial_id := t.trial_id; number := t.number; takeovers := t.takeovers;
        return;
    end if;

    if s.state = 'stopped' then outcome := 'stopped'; return; end if;
    timed_out := coalesce(
        hpo.now() >= s.first_claim_at + hpo.seconds(s.timeout_s), false);

    -- 1. A trial whose worker is gone, or whose lease row is. A trial that a foreign
    --    `study.optimize` runs was never marked by us and is left alone.
    loop
        select tr.trial_id, tr.number into t
          from public.trials tr
          left join hpo.lease l on l.trial_id = tr.trial_id
         where tr.study_id = p_study and tr.state = 'RUNNING'
           and ((l.told_at is null and l.expires_at <= hpo.now()
                 -- nobody could renew while the server was away: all get their time once more
                 and (l.released or hpo.up_since() <= hpo.now() - hpo.seconds(p_lease_s)))
                or (l.trial_id is null and exists (
                    select 1 from public.trial_system_attributes a
                     where a.trial_id = tr.trial_id and a.key = 'hpo:claimed')))
         order by tr.number limit 1
           for update of tr skip locked;
        exit when not found;
        select * into held from hpo.lease l where l.trial_id = t.trial_id for update;
        -- its renewal may have come through while we waited for the row
        exit when held.told_at is not null or held.expires_at > hpo.now();
        update hpo.attempt a set ended = 'silent', ended_at = hpo.now()
         where a.trial_id = t.trial_id and a.ended is null;
        dead := coalesce(held.deaths, 0) + (not coalesce(held.released, false))::integer;
        if dead >= 3 then
            perform hpo.give_up(t.trial_id, dead);
            continue;
        end if;
        insert into hpo.lease as l (trial_id, study_id, worker_id, token, claimed_at, expires_at,
                                    takeovers, deaths)
        values (t.trial_id, p_study, p_worker, p_token, hpo.now(),
                hpo.now() + hpo.seconds(p_lease_s), 1, dead)
        on conflict on constraint lease_pkey do update
           set worker_id = p_worker, token = p_token, claimed_at = excluded.claimed_at,
               expires_at = excluded.expires_at, takeovers = l.takeovers + 1, deaths = dead,
               released = false
        returning l.takeovers into takeovers;
        perform hpo.begin_attempt(t.trial_id, p_study, p_worker, p_token);
        outcome := 'trial'; kind := 'takeover';
        trial_id := t.trial_id; number := t.number;
        return;
    end loop;

    -- Claims are counted, not rows: waiting trials have not been claimed yet.
    select count(*) into claimed from public.trials tr
     where tr.study_id = p_study and tr.state <> 'WAITING';
    if claimed < s.trials and not timed_out then
        -- 2. A waiting trial: baselines and enqueued ones, the earliest first.
        select tr.trial_id, tr.number into t from public.trials tr
         where tr.study_id = p_study and tr.state = 'WAITING'
         order by tr.number limit 1 for update of tr;
        if found then
            update public.trials tr set state = 'RUNNING', datetime_start = hpo.utc_now()
             where tr.trial_id = t.trial_id;
            kind := 'waiting';
        else
            -- 3. A new one, while the budget lasts.
            insert into public.trials as tr (number, study_id, state, datetime_start)
            select coalesce(max(o.number) + 1, 0), p_study, 'RUNNING', hpo.utc_now()
              from public.trials o where o.study_id = p_study
            returning tr.trial_id, tr.number into t;
            kind := 'new';
        end if;
        insert into hpo.lease (trial_id, study_id, worker_id, token, claimed_at, expires_at)
        values (t.trial_id, p_study, p_worker, p_token, hpo.now(),
                hpo.now() + hpo.seconds(p_lease_s));
        perform hpo.begin_attempt(t.trial_id, p_study, p_worker, p_token);
        insert into public.trial_system_attributes (trial_id, key, value_json)
        values (t.trial_id, 'hpo:claimed', 'true')
        on conflict (trial_id, key) do nothing;
        update hpo.study h set first_claim_at = hpo.now()
         where h.study_id = p_study and h.first_claim_at is null;
        outcome := 'trial'; trial_id := t.trial_id; number := t.number; takeovers := 0;
        return;
    end if;

    -- 4. Nothing to hand out: wait for the trials that run under a lease, or it is finished.
    if exists (select 1 from public.trials tr join hpo.lease l on l.trial_id = tr.trial_id
                where tr.study_id = p_study and tr.state = 'RUNNING' and l.told_at is null) then
        outcome := 'wait';
    else
        outcome := 'finished';
    end if;
end $$;

-- The guard of every write for a trial: true when it runs and the token is the lease's. It holds
-- both rows until the caller's transaction ends, so that nothing comes between check and write.
-- The fence is the token alone: an expired lease that nobody took over is still the holder's, until
-- it was given back: a renewal that comes late must not hold it again.
create or replace function hpo.guard(p_trial integer, p_token uuid) returns boolean language plpgsql as $$
begin
    perform hpo.hurry();
    perform 1 from public.trials t where t.trial_id = p_trial and t.state = 'RUNNING' for update;
    if not found then return false; end if;
    perform 1 from hpo.lease l
      where l.trial_id = p_trial and l.token = p_token and l.told_at is null and not l.released
        for update;
    return found;
end $$;

-- Renew a lease. Returns go | stop (the study was stopped: end at the next epoch) | lost
create or replace function hpo.renew(p_trial integer, p_token uuid, p_lease_s double precision)
returns text language plpgsql as $$
declare
    wanted text;
begin
    if not hpo.guard(p_trial, p_token) then return 'lost'; end if;
    update hpo.lease l set expires_at = hpo.now() + hpo.seconds(p_lease_s)
     where l.trial_id = p_trial;
    update hpo.worker w
       set seen_at = hpo.now(), expires_at = hpo.now() + hpo.seconds(p_lease_s)
      from hpo.lease l where l.trial_id = p_trial and w.worker_id = l.worker_id;
    select h.state into wanted from hpo.study h join hpo.lease l on l.study_id = h.study_id
     where l.trial_id = p_trial;
    return case when wanted = 'open' then 'go' when wanted is null then 'lost' else 'stop' end;
end $$;

create or replace function hpo.store_params(p_trial integer, p_token uuid, p_params jsonb, p_attrs jsonb)
returns boolean language plpgsql as $$
begin
    if not hpo.guard(p_trial, p_token) then return false; end if;
    insert into public.trial_params (trial_id, param_name, param_value, distribution_json)
    select p_trial, p.key, (p.value ->> 0)::double precision, p.value ->> 1
      from jsonb_each(p_params) p
    on conflict (trial_id, param_name) do nothing;
    perform hpo.store_attrs(p_trial, p_attrs);
    return true;
end $$;

create or replace function hpo.store_attrs(p_trial integer, p_attrs jsonb) returns void language sql as $$
    insert into public.trial_system_attributes (trial_id, key, value_json)
    select p_trial, a.key, a.value #>> '{}' from jsonb_each(p_attrs) a
    on conflict (trial_id, key) do update set value_json = excluded.value_json
$$;

-- An epoch's figures; the same epoch trained again replaces them. p_value null stands for NaN.
-- Returns go | stop | lost
create or replace function hpo.report(
    p_trial integer, p_token uuid, p_epoch integer, p_value double precision, p_metrics jsonb,
    p_lease_s double precision
) returns text language plpgsql as $$
declare
    verdict text;
begin
    verdict := hpo.renew(p_trial, p_token, p_lease_s);
    if verdict = 'lost' then return verdict; end if;
    -- A new epoch: whatever ended the workers before did not end this one.
    update hpo.lease l set deaths = 0
     where l.trial_id = p_trial and l.deaths > 0
       and not exists (select 1 from hpo.epoch e where e.trial_id = p_trial and e.epoch >= p_epoch);
    insert into public.trial_intermediate_values
        (trial_id, step, intermediate_value, intermediate_value_type)
    values (p_trial, p_epoch,
            case when p_value in ('infinity', '-infinity') then null else p_value end,
            (case when p_value is null then 'NAN' when p_value = 'infinity' then 'INF_POS'
                  when p_value = '-infinity' then 'INF_NEG' else 'FINITE'
             end)::public.trialintermediatevaluetype)
    on conflict (trial_id, step) do update
       set intermediate_value = excluded.intermediate_value,
           intermediate_value_type = excluded.intermediate_value_type;
    insert into hpo.epoch as e (trial_id, epoch, metrics, recorded_at)
    values (p_trial, p_epoch, p_metrics, hpo.now())
    on conflict (trial_id, epoch) do update
       set metrics = excluded.metrics, recorded_at = hpo.now(),
           change = nextval('hpo.change');
    return verdict;
end $$;

-- What a pruner keeps with a trial (rungs). Fenced like a report.
create or replace function hpo.store_rungs(p_trial integer, p_token uuid, p_attrs jsonb)
returns boolean language plpgsql as $$
begin
    if not hpo.guard(p_trial, p_token) then return false; end if;
    perform hpo.store_attrs(p_trial, p_attrs);
    return true;
end $$;

-- Where an attempt begins. Checkpoints after that epoch could not be used: they are forgotten, so
-- that the next ones count.
create or replace function hpo.resume(p_trial integer, p_token uuid, p_epoch integer, p_note text)
returns boolean language plpgsql as $$
begin
    if not hpo.guard(p_trial, p_token) then return false; end if;
    delete from hpo.checkpoint c where c.trial_id = p_trial and c.epoch > p_epoch;
    update hpo.attempt a set resumed_epoch = p_epoch, note = p_note where a.token = p_token;
    return true;
end $$;

-- A checkpoint that is in the store. The newest and the one before are kept. Returns kept | lost
create or replace function hpo.checkpoint(
    p_trial integer, p_token uuid, p_epoch integer, p_sha256 text, p_bytes bigint,
    p_best_epoch integer, p_best_sha256 text, p_best_bytes bigint
) returns text language plpgsql as $$
begin
    if not hpo.guard(p_trial, p_token) then return 'lost'; end if;
    insert into hpo.checkpoint (trial_id, epoch, token, sha256, bytes, best_epoch, best_sha256,
                                best_bytes, recorded_at)
    values (p_trial, p_epoch, p_token, p_sha256, p_bytes, p_best_epoch, p_best_sha256,
            p_best_bytes, hpo.now())
    on conflict (trial_id, epoch) do update
       set token = excluded.token, sha256 = excluded.sha256, bytes = excluded.bytes,
           best_epoch = excluded.best_epoch, best_sha256 = excluded.best_sha256,
           best_bytes = excluded.best_bytes, recorded_at = excluded.recorded_at;
    delete from hpo.checkpoint c
     where c.trial_id = p_trial and c.epoch < (
           select min(two.epoch) from (
               select k.epoch from hpo.checkpoint k where k.trial_id = p_trial
                order by k.epoch desc limit 2) two);
    return 'kept';
end $$;

-- End a trial. Its value is that of its best recorded epoch, the earliest on a tie. Epochs after
-- p_last are of an earlier attempt that came further, and not of the model that is told.
-- Returns told | lost
create or replace function hpo.tell(
    p_trial integer, p_token uuid, p_state text, p_reason text, p_attrs jsonb, p_files jsonb,
    p_last integer
) returns text language plpgsql as $$
declare
    best record;
    maximize boolean;
begin
    -- An acknowledgement that was lost: it was told already, under this very token.
    perform 1 from hpo.lease l
      where l.trial_id = p_trial and l.token = p_token and l.told_state = p_state;
    if found then return 'told'; end if;
    if not hpo.guard(p_trial, p_token) then return 'lost'; end if;

    select d.direction = 'MAXIMIZE' into maximize
      from public.study_directions d join public.trials t on t.study_id = d.study_id
     where t.trial_id = p_trial and d.objective = 0;
    select v.step, v.intermediate_value as value into best
      from public.trial_intermediate_values v
     where v.trial_id = p_trial and v.intermediate_value_type = 'FINITE'
       and (p_last is null or v.step <= p_last)
     order by case when maximize then -v.intermediate_value else v.intermediate_value end, v.step
     limit 1;
    if p_state = 'COMPLETE' and best.step is null then
        raise exception 'trial % has no finite epoch and cannot be complete', p_trial;
    end if;

    update public.trials t set state = p_state::public.trialstate, datetime_complete = hpo.utc_now()
     where t.trial_id = p_trial;
    if p_state <> 'FAIL' and best.step is not null then
        insert into public.trial_values (trial_id, objective, value, value_type)
        values (p_trial, 0, best.value, 'FINITE');
    end if;
    insert into public.trial_user_attributes (trial_id, key, value_json)
    select p_trial, a.key, a.value #>> '{}' from jsonb_each(p_attrs) a
    on conflict (trial_id, key) do update set value_json = excluded.value_json;
    insert into hpo.artifact (trial_id, name, sha256, bytes, epoch)
    select p_trial, f.key, f.value ->> 0, (f.value ->> 1)::bigint, best.step
      from jsonb_each(p_files) f
    on conflict (trial_id, name) do update
       set sha256 = excluded.sha256, bytes = excluded.bytes, epoch = excluded.epoch;
    update hpo.lease l
       set told_at = hpo.now(), told_state = p_state, reason = p_reason,
           value = best.value, best_epoch = best.step
     where l.trial_id = p_trial;
    update hpo.attempt a set ended = 'told', ended_at = hpo.now() where a.token = p_token;
    delete from hpo.checkpoint c where c.trial_id = p_trial;
    return 'told';
end $$;

-- Give a trial back unfinished: another worker may take it over at once.
create or replace function hpo.release(p_trial integer, p_token uuid) returns boolean language plpgsql as $$
begin
    perform 1 from hpo.lease l
      where l.trial_id = p_trial and l.token = p_token and l.told_at is null and l.released;
    if found then return true; end if;  -- an acknowledgement that was lost
    if not hpo.guard(p_trial, p_token) then return false; end if;
    update hpo.lease l set expires_at = hpo.now(), released = true where l.trial_id = p_trial;
    update hpo.attempt a set ended = 'released', ended_at = hpo.now() where a.token = p_token;
    return true;
end $$;

create or replace function hpo.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'hpo.promotion is append-only';
end $$;
