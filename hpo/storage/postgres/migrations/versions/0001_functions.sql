-- Claims, leases and fenced writes. Each function is one critical section in one transaction;
-- a caller that dies or is paused between two calls holds no lock. Every write for a trial checks,
-- in the same transaction, that the trial still runs and that the caller's token is the lease's.
-- Locks are taken in the order: Optuna's study, our study, trial, lease.

create function hpo.utc_now() returns timestamp language sql volatile as
$$ select clock_timestamp() at time zone 'UTC' $$;  -- Optuna 5 stores naive UTC

create function hpo.seconds(p_s double precision) returns interval language sql immutable as
$$ select p_s * interval '1 second' $$;

-- Who may run which trial. outcome: trial | wait | finished | stopped | deleted
create function hpo.claim(
    p_study integer, p_worker bigint, p_token uuid, p_lease_s double precision,
    out outcome text, out trial_id integer, out number integer, out takeovers integer,
    out kind text
) language plpgsql as $$
#variable_conflict use_column
declare
    s hpo.study;
    t record;
    claimed integer;
    timed_out boolean;
begin
    update hpo.worker w
       set seen_at = clock_timestamp(), expires_at = clock_timestamp() + hpo.seconds(p_lease_s)
     where w.worker_id = p_worker;

    -- An acknowledgement that was lost: the same token gets the same trial again.
    select l.trial_id, tr.number, l.takeovers into t
      from hpo.lease l join public.trials tr on tr.trial_id = l.trial_id
     where l.token = p_token and l.told_at is null and tr.state = 'RUNNING';
    if found then
        outcome := 'trial'; kind := 'again';
        trial_id := t.trial_id; number := t.number; takeovers := t.takeovers;
        return;
    end if;

    perform 1 from public.studies st where st.study_id = p_study for update;
    if not found then outcome := 'deleted'; return; end if;
    select * into s from hpo.study h where h.study_id = p_study for update;
    if not found then outcome := 'deleted'; return; end if;
    if s.state = 'stopped' then outcome := 'stopped'; return; end if;
    timed_out := coalesce(
        clock_timestamp() >= s.first_claim_at + hpo.seconds(s.timeout_s), false);

    -- 1. A trial whose worker is gone, or whose lease row is. A trial that a foreign
    --    `study.optimize` runs was never marked by us and is left alone.
    select tr.trial_id, tr.number, l.trial_id as leased into t
      from public.trials tr
      left join hpo.lease l on l.trial_id = tr.trial_id
     where tr.study_id = p_study and tr.state = 'RUNNING'
       and ((l.told_at is null and l.expires_at <= clock_timestamp())
            or (l.trial_id is null and exists (
                select 1 from public.trial_system_attributes a
                 where a.trial_id = tr.trial_id and a.key = 'hpo:claimed')))
     order by tr.number limit 1
       for update of tr skip locked;
    if found then
        insert into hpo.lease as l (trial_id, study_id, worker_id, token, expires_at, takeovers)
        values (t.trial_id, p_study, p_worker, p_token,
                clock_timestamp() + hpo.seconds(p_lease_s), 1)
        on conflict on constraint lease_pkey do update
           set worker_id = p_worker, token = p_token, claimed_at = clock_timestamp(),
               expires_at = excluded.expires_at, takeovers = l.takeovers + 1
        -- its renewal may have come through while we waited for the row
         where l.expires_at <= clock_timestamp() and l.told_at is null
        returning l.takeovers into takeovers;
        if found then
            outcome := 'trial'; kind := 'takeover';
            trial_id := t.trial_id; number := t.number;
            return;
        end if;
    end if;

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
        insert into hpo.lease (trial_id, study_id, worker_id, token, expires_at)
        values (t.trial_id, p_study, p_worker, p_token,
                clock_timestamp() + hpo.seconds(p_lease_s));
        insert into public.trial_system_attributes (trial_id, key, value_json)
        values (t.trial_id, 'hpo:claimed', 'true')
        on conflict (trial_id, key) do nothing;
        update hpo.study h set first_claim_at = clock_timestamp()
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
-- The fence is the token alone: an expired lease that nobody took over is still the holder's.
create function hpo.guard(p_trial integer, p_token uuid) returns boolean language plpgsql as $$
begin
    perform 1 from public.trials t where t.trial_id = p_trial and t.state = 'RUNNING' for update;
    if not found then return false; end if;
    perform 1 from hpo.lease l
      where l.trial_id = p_trial and l.token = p_token and l.told_at is null for update;
    return found;
end $$;

-- Renew a lease. Returns go | stop (the study was stopped: end at the next epoch) | lost
create function hpo.renew(p_trial integer, p_token uuid, p_lease_s double precision)
returns text language plpgsql as $$
declare
    wanted text;
begin
    if not hpo.guard(p_trial, p_token) then return 'lost'; end if;
    update hpo.lease l set expires_at = clock_timestamp() + hpo.seconds(p_lease_s)
     where l.trial_id = p_trial;
    update hpo.worker w
       set seen_at = clock_timestamp(), expires_at = clock_timestamp() + hpo.seconds(p_lease_s)
      from hpo.lease l where l.trial_id = p_trial and w.worker_id = l.worker_id;
    select h.state into wanted from hpo.study h join hpo.lease l on l.study_id = h.study_id
     where l.trial_id = p_trial;
    return case when wanted = 'open' then 'go' when wanted is null then 'lost' else 'stop' end;
end $$;

create function hpo.store_params(p_trial integer, p_token uuid, p_params jsonb, p_attrs jsonb)
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

create function hpo.store_attrs(p_trial integer, p_attrs jsonb) returns void language sql as $$
    insert into public.trial_system_attributes (trial_id, key, value_json)
    select p_trial, a.key, a.value #>> '{}' from jsonb_each(p_attrs) a
    on conflict (trial_id, key) do update set value_json = excluded.value_json
$$;

-- An epoch's figures; the same epoch trained again replaces them. p_value null stands for NaN.
-- Returns go | stop | lost
create function hpo.report(
    p_trial integer, p_token uuid, p_epoch integer, p_value double precision, p_metrics jsonb,
    p_lease_s double precision
) returns text language plpgsql as $$
declare
    verdict text;
begin
    verdict := hpo.renew(p_trial, p_token, p_lease_s);
    if verdict = 'lost' then return verdict; end if;
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
    insert into hpo.epoch as e (trial_id, epoch, metrics) values (p_trial, p_epoch, p_metrics)
    on conflict (trial_id, epoch) do update
       set metrics = excluded.metrics, recorded_at = clock_timestamp(),
           change = nextval('hpo.change');
    return verdict;
end $$;

-- What a pruner keeps with a trial (rungs). Fenced like a report.
create function hpo.store_rungs(p_trial integer, p_token uuid, p_attrs jsonb)
returns boolean language plpgsql as $$
begin
    if not hpo.guard(p_trial, p_token) then return false; end if;
    perform hpo.store_attrs(p_trial, p_attrs);
    return true;
end $$;

-- End a trial. Its value is that of its best recorded epoch, the earliest on a tie.
-- Returns told | lost
create function hpo.tell(
    p_trial integer, p_token uuid, p_state text, p_reason text, p_attrs jsonb, p_files jsonb
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
       set told_at = clock_timestamp(), told_state = p_state, reason = p_reason,
           value = best.value, best_epoch = best.step
     where l.trial_id = p_trial;
    return 'told';
end $$;

-- Give a trial back unfinished: another worker may take it over at once.
create function hpo.release(p_trial integer, p_token uuid) returns boolean language sql as $$
    update hpo.lease l set expires_at = clock_timestamp()
     where l.trial_id = p_trial and l.token = p_token and l.told_at is null
    returning true
$$;
