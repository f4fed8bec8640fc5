-- A study as one document: each statement `export_X` gives the rows of the section X of document.py.
-- Trials go by their number and workers by their place in the document: ids are each database's own. The
-- document sorts its rows itself, as text is not ordered alike in all databases.

-- name: export_exactly
-- A server may be set to print fewer digits than a number has.
select set_config('extra_float_digits', '1', true)

-- name: export_study
select h.name, h.uid::text as uid, h.spec, h.spec_sha256, h.dataset_fingerprint, h.code_version,
       h.trials, h.timeout_s, h.state, h.created_at, h.first_claim_at, h.test_fingerprint,
       h.model_sha256
  from hpo.study h join studies s on s.study_id = h.study_id
 where h.study_id = :study_id

-- name: export_finals_id
select h.study_id from hpo.study h join studies s on s.study_id = h.study_id
 where h.parent_id = :study_id

-- name: export_final
select t.number as trial, f.of_number as of_trial, f.seed, f.trained
  from trials t join hpo.final f on f.trial_id = t.trial_id
 where t.study_id = :study_id

-- name: export_directions
select d.objective, d.direction::text as direction
  from study_directions d where d.study_id = :study_id

-- name: export_study_user_attrs
select a.key, a.value_json from study_user_attributes a where a.study_id = :study_id

-- name: export_study_system_attrs
select a.key, a.value_json from study_system_attributes a
 where a.study_id = :study_id

-- name: export_trials
select t.number as trial, t.state::text as state, t.datetime_start, t.datetime_complete
  from trials t where t.study_id = :study_id

-- name: export_params
select t.number as trial, p.param_name, p.param_value, p.distribution_json
  from trials t join trial_params p on p.trial_id = t.trial_id
 where t.study_id = :study_id

-- name: export_values
select t.number as trial, v.objective, v.value, v.value_type::text as value_type
  from trials t join trial_values v on v.trial_id = t.trial_id
 where t.study_id = :study_id

-- name: export_intermediate_values
select t.number as trial, v.step, v.intermediate_value,
       v.intermediate_value_type::text as intermediate_value_type
  from trials t join trial_intermediate_values v on v.trial_id = t.trial_id
 where t.study_id = :study_id

-- name: export_trial_user_attrs
select t.number as trial, a.key, a.value_json
  from trials t join trial_user_attributes a on a.trial_id = t.trial_id
 where t.study_id = :study_id

-- name: export_trial_system_attrs
-- Without the pictures that the mirror shows in optuna-dashboard and shows again elsewhere: their
-- ids are made of their content (UUID version 5), those of Optuna's own uploads are random.
select t.number as trial, a.key, a.value_json
  from trials t join trial_system_attributes a on a.trial_id = t.trial_id
 where t.study_id = :study_id and a.key !~ '^artifacts:[0-9a-f]{8}-[0-9a-f]{4}-5'

-- name: export_workers
-- Those that claimed something.
select w.worker_id as worker, w.host, w.pid, w.device, w.started_at, w.seen_at, w.ended_at,
       w.ended_why, w.environment
  from hpo.worker w
 where w.worker_id in (
       select l.worker_id from hpo.lease l join trials t on t.trial_id = l.trial_id
        where t.study_id = :study_id
       union all
       select a.worker_id from hpo.attempt a join trials t on t.trial_id = a.trial_id
        where t.study_id = :study_id)
 order by w.worker_id

-- name: export_leases
select t.number as trial, w.worker_id as worker, l.claimed_at, l.takeovers, l.deaths, l.told_at,
       l.told_state, l.value, l.best_epoch, l.reason
  from trials t join hpo.lease l on l.trial_id = t.trial_id
  left join hpo.worker w on w.worker_id = l.worker_id
 where t.study_id = :study_id

-- name: export_attempts
-- One that is under way counts as given back when its worker was last seen: whoever imports it
-- goes on from there, and nobody died of it.
select t.number as trial, a.attempt, w.worker_id as worker, a.claimed_at,
       case when a.ended is null then coalesce(w.seen_at, a.claimed_at) else a.ended_at end
           as ended_at,
       coalesce(a.ended, 'released') as ended, a.resumed_epoch, a.note
  from trials t join hpo.attempt a on a.trial_id = t.trial_id
  left join hpo.worker w on w.worker_id = a.worker_id
 where t.study_id = :study_id

-- name: export_epochs
select t.number as trial, e.epoch, e.metrics, e.recorded_at
  from trials t join hpo.epoch e on e.trial_id = t.trial_id
 where t.study_id = :study_id

-- name: export_artifacts
select t.number as trial, f.name, f.sha256, f.bytes, f.epoch, f.recorded_at
  from trials t join hpo.artifact f on f.trial_id = t.trial_id
 where t.study_id = :study_id

-- name: export_checkpoints
select t.number as trial, c.epoch, a.attempt, c.sha256, c.bytes, c.best_epoch, c.best_sha256,
       c.best_bytes, c.recorded_at
  from trials t join hpo.checkpoint c on c.trial_id = t.trial_id
  join hpo.attempt a on a.token = c.token and a.trial_id = c.trial_id
 where t.study_id = :study_id

-- name: export_promotions
-- Also those of before it was deleted and imported again: a row of that table never changes, so
-- they keep the id that the study had then. Their order is kept, the number of it is each
-- database's own.
select row_number() over (order by p.seq) as place, p.promotion_id::text as promotion_id,
       p.decided_at, p.outcome, p.model, p.alias, p.trial_number, p.version, p.previous_version,
       p.override, p.why, p.actor, p.evidence
  from hpo.promotion p join hpo.study h on h.study_id = :study_id
 where p.study_id = h.study_id
    or (p.study_name = h.name and p.decided_at >= h.created_at
        and not exists (select 1 from hpo.study o where o.study_id = p.study_id))

-- name: export_trial_ids
select t.trial_id, t.number, m.run_id
  from trials t left join hpo.mirror m on m.trial_id = t.trial_id
 where t.study_id = :study_id

-- name: export_experiment
select m.experiment_id from hpo.mirror_study m where m.study_id = :study_id

-- name: export_areas
-- In whose area of the artifact store each checkpoint lies.
select t.number as trial, c.epoch, c.token
  from trials t join hpo.checkpoint c on c.trial_id = t.trial_id
 where t.study_id = :study_id
