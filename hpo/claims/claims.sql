-- The functions of the schema `hpo` (hpo/storage/postgres/migrations) as Python calls them, and what
-- workers read beside them.

-- name: claim
select outcome, trial_id, number, takeovers, kind
  from hpo.claim(:study, :worker, cast(:token as uuid), :lease_s)

-- name: store_params
select hpo.store_params(:trial, cast(:token as uuid), cast(:params as jsonb), cast(:attrs as jsonb))

-- name: renew
select hpo.renew(:trial, cast(:token as uuid), :lease_s) as standing

-- name: report
select hpo.report(:trial, cast(:token as uuid), :epoch, :value, cast(:metrics as jsonb), :lease_s) as standing

-- name: store_rungs
select hpo.store_rungs(:trial, cast(:token as uuid), cast(:attrs as jsonb))

-- name: resume
select hpo.resume(:trial, cast(:token as uuid), :epoch, :note) as resumed

-- name: checkpoint
select hpo.checkpoint(:trial, cast(:token as uuid), :epoch, :sha256, :bytes,
                      :best_epoch, :best_sha256, :best_bytes) as standing

-- name: checkpoints
-- The newest first.
select c.epoch, c.token, c.sha256, c.bytes, c.best_epoch, c.best_sha256, c.best_bytes
  from hpo.checkpoint c where c.trial_id = :trial order by c.epoch desc

-- name: attempt_tokens
select a.token from hpo.attempt a where a.trial_id = :trial order by a.attempt

-- name: uncleared
-- Ended trials whose checkpoints may still lie in the store: whoever ended them was killed before.
select l.trial_id, t.number
  from hpo.lease l join trials t on t.trial_id = l.trial_id
 where l.study_id = :study and not l.cleared and t.state in ('COMPLETE', 'PRUNED', 'FAIL')
 order by t.number

-- name: cleared
-- A trial that was ended outside this service still has its rows.
with gone as (
    delete from hpo.checkpoint where trial_id = :trial
)
update hpo.lease set cleared = true where trial_id = :trial returning trial_id

-- name: uncleared_attempts
-- Every attempt of a study that may have left something in the store.
select t.number, a.token
  from hpo.attempt a join trials t on t.trial_id = a.trial_id
  left join hpo.lease l on l.trial_id = a.trial_id
 where a.study_id = :study and not coalesce(l.cleared, false)

-- name: warn
update hpo.worker set warning = :warning
 where worker_id = :worker and warning is distinct from :warning returning worker_id

-- name: tell
select hpo.tell(:trial, cast(:token as uuid), :state, :reason, cast(:attrs as jsonb),
                cast(:files as jsonb), :last) as standing

-- name: release
select hpo.release(:trial, cast(:token as uuid)) as released

-- name: history
-- Trials of a study whose ids are not known yet; the running and waiting ones always.
select t.trial_id, t.number, t.state::text as state,
       t.datetime_start, t.datetime_complete,
       (select coalesce(jsonb_object_agg(p.param_name,
                   jsonb_build_array(p.param_value, p.distribution_json)), '{}')
          from trial_params p where p.trial_id = t.trial_id) as params,
       (select coalesce(jsonb_object_agg(v.step,
                   jsonb_build_array(v.intermediate_value, v.intermediate_value_type::text)), '{}')
          from trial_intermediate_values v where v.trial_id = t.trial_id) as steps,
       (select coalesce(jsonb_object_agg(a.key, a.value_json), '{}')
          from trial_system_attributes a where a.trial_id = t.trial_id) as system_attrs,
       (select jsonb_build_array(v.value, v.value_type::text)
          from trial_values v where v.trial_id = t.trial_id and v.objective = 0) as value
  from trials t
 where t.study_id = :study_id and t.trial_id <> all(:known)
 order by t.number

-- name: study_attrs
-- optuna-dashboard's notes, two rows a trial, are of no use to samplers and pruners.
select a.key, a.value_json from study_system_attributes a
 where a.study_id = :study_id and a.key not like 'dashboard:%'

-- name: register_worker
insert into hpo.worker (study_id, host, pid, device, slot, environment)
values (:study_id, :host, :pid, :device, :slot, cast(:environment as jsonb))
returning worker_id

-- name: ended_in_slot
select count(*) from hpo.lease l join hpo.worker w on w.worker_id = l.worker_id
 where w.slot = :slot and l.told_at is not null

-- name: worker_left
update hpo.worker set ended_at = hpo.now(), seen_at = hpo.now(), ended_why = :why
 where worker_id = :worker_id
