-- What MLflow and optuna-dashboard are to show, and how far they hold it. Rows of the schema hpo are
-- optional throughout: a plain Optuna study is mirrored too.

-- name: mirror_study
select s.study_id, s.study_name as name, h.spec, h.spec_sha256, h.dataset_fingerprint,
       h.code_version, h.model_sha256, h.trials,
       (extract(epoch from h.created_at) * 1000)::bigint as created_ms,
       (select (extract(epoch from min(t.datetime_start) at time zone 'UTC') * 1000)::bigint
          from trials t where t.study_id = s.study_id) as first_ms,
       (select (extract(epoch from max(t.datetime_complete) at time zone 'UTC') * 1000)::bigint
          from trials t where t.study_id = s.study_id) as last_ms,
       (select a.value_json from study_system_attributes a
         where a.study_id = s.study_id and a.key = 'study:metric_names') as metric_names,
       (select coalesce(jsonb_agg(d.direction::text order by d.objective), '[]')
          from study_directions d where d.study_id = s.study_id) as directions,
       m.experiment_id, m.run_id, h.parent_id, p.run_id as parent_run_id
  from studies s
  left join hpo.study h on h.study_id = s.study_id
  left join hpo.mirror_study m on m.study_id = s.study_id
  left join hpo.mirror_study p on p.study_id = h.parent_id
 where s.study_id = :study_id

-- name: mirror_best
-- The best trial: of a study of ours only what was told under a lease competes.
select t.number, v.value
  from trials t
  join trial_values v on v.trial_id = t.trial_id and v.objective = 0 and v.value_type = 'FINITE'
  join study_directions d on d.study_id = t.study_id and d.objective = 0
  left join hpo.lease l on l.trial_id = t.trial_id
 where t.study_id = :study_id and t.state = 'COMPLETE'
   and (l.told_state = 'COMPLETE'
        or not exists (select 1 from hpo.study h where h.study_id = t.study_id))
 order by case when d.direction = 'MAXIMIZE' then -v.value else v.value end, t.number
 limit 1

-- name: mirror_trial
-- All of one trial in one statement, so that its state and its figures are of one moment. `epochs`
-- and `last_change` are those after :change.
select t.trial_id, t.number, t.study_id, t.state::text as state,
       (extract(epoch from t.datetime_start at time zone 'UTC') * 1000)::bigint as start_ms,
       (extract(epoch from t.datetime_complete at time zone 'UTC') * 1000)::bigint as end_ms,
       (select coalesce(jsonb_object_agg(p.param_name,
                   jsonb_build_array(p.param_value, p.distribution_json)), '{}')
          from trial_params p where p.trial_id = t.trial_id) as params,
       (select coalesce(jsonb_agg(jsonb_build_array(e.epoch,
                   (extract(epoch from e.recorded_at) * 1000)::bigint, e.metrics)
                   order by e.epoch), '[]')
          from hpo.epoch e where e.trial_id = t.trial_id and e.change > :change) as epochs,
       (select max(e.change) from hpo.epoch e where e.trial_id = t.trial_id) as last_change,
       (select coalesce(jsonb_agg(jsonb_build_array(v.step,
                   v.intermediate_value, v.intermediate_value_type::text) order by v.step), '[]')
          from trial_intermediate_values v
         where v.trial_id = t.trial_id and not exists (
               select 1 from hpo.epoch e where e.trial_id = v.trial_id and e.epoch = v.step)
       ) as steps,
       (select coalesce(jsonb_agg(jsonb_build_array(v.value, v.value_type::text)
                   order by v.objective), '[]')
          from trial_values v where v.trial_id = t.trial_id) as results,
       (select coalesce(jsonb_object_agg(a.key, a.value_json), '{}')
          from trial_user_attributes a where a.trial_id = t.trial_id) as user_attrs,
       (select coalesce(jsonb_object_agg(f.name, jsonb_build_array(f.sha256, f.bytes)), '{}')
          from hpo.artifact f where f.trial_id = t.trial_id) as files,
       (select jsonb_build_array(f.of_number, f.seed, f.trained)
          from hpo.final f where f.trial_id = t.trial_id) as final,
       l.trial_id is not null as leased, l.told_at is not null as told,
       l.takeovers, l.reason, l.best_epoch, w.host
  from trials t
  left join hpo.lease l on l.trial_id = t.trial_id
  left join hpo.worker w on w.worker_id = l.worker_id
 where t.trial_id = :trial_id

-- name: mirror_trials
select t.trial_id, m.run_id
  from trials t left join hpo.mirror m on m.trial_id = t.trial_id
 where t.study_id = :study_id and t.state <> 'WAITING' order by t.number

-- name: mirror_add
insert into hpo.mirror (trial_id, study_id) values (:trial_id, :study_id)
on conflict (trial_id) do nothing

-- name: mirror_lock
select m.run_id, m.change, m.steps, m.state, m.files from hpo.mirror m
 where m.trial_id = :trial_id for update skip locked

-- name: mirror_patience
-- A mirror that is paused or hangs does not keep its row for ever.
set local idle_in_transaction_session_timeout = '180s'

-- name: mirror_slot
-- One of a few places for writing MLflow; no row where all are taken. A place is the transaction's.
-- With PgBouncer each open transaction occupies a connection of the server: while MLflow hangs, a
-- thousand mirrors would take them all from those who claim and report.
select s.slot from (select n as slot from generate_series(1, 8) n order by random()) s
 where pg_try_advisory_xact_lock(1836020594, s.slot) limit 1

-- name: mirror_done
update hpo.mirror
   set run_id = :run_id, change = :change, steps = :steps, state = :state, files = :files,
       error = null, updated_at = hpo.now()
 where trial_id = :trial_id

-- name: complete_run
-- The run of a trial that MLflow has as a whole.
select m.run_id from hpo.mirror m where m.trial_id = :trial_id and m.files

-- name: mirror_failed
update hpo.mirror set error = :error, updated_at = hpo.now() where trial_id = :trial_id

-- name: mirror_reset
-- MLflow does not have these runs any more: they are built again from their first epoch.
update hpo.mirror
   set run_id = null, change = 0, steps = 0, state = null, files = false, dashboard = false
 where trial_id = any(:trial_ids)

-- name: mirror_forget
-- Rows of trials that were deleted outside this service.
delete from hpo.mirror m
 where m.study_id = :study_id
   and not exists (select 1 from trials t where t.trial_id = m.trial_id)

-- name: mirror_forget_study
delete from hpo.mirror_study m
 where m.study_id = :study_id
   and not exists (select 1 from studies s where s.study_id = m.study_id)

-- name: mirror_study_add
insert into hpo.mirror_study (study_id) select s.study_id from studies s
 where s.study_id = :study_id
on conflict (study_id) do nothing

-- name: mirror_study_lock
select m.experiment_id, m.run_id, m.state from hpo.mirror_study m
 where m.study_id = :study_id for update

-- name: mirror_study_done
update hpo.mirror_study
   set experiment_id = :experiment_id, run_id = :run_id, state = :state, error = null,
       updated_at = hpo.now()
 where study_id = :study_id

-- name: mirror_study_failed
update hpo.mirror_study set error = :error, updated_at = hpo.now()
 where study_id = :study_id

-- name: mirror_study_works
update hpo.mirror_study set error = null, updated_at = hpo.now()
 where study_id = :study_id and error is not null

-- name: mirror_study_reset
update hpo.mirror_study set run_id = null, state = null where study_id = :study_id

-- name: dashboard_pending
select m.trial_id
  from hpo.mirror m join trials t on t.trial_id = m.trial_id
 where m.study_id = :study_id and m.run_id is not null and m.files and not m.dashboard
 order by t.number

-- name: dashboard_lock
select m.run_id, s.experiment_id
  from hpo.mirror m join hpo.mirror_study s on s.study_id = m.study_id
 where m.trial_id = :trial_id and not m.dashboard for update of m skip locked

-- name: dashboard_artifact
insert into trial_system_attributes (trial_id, key, value_json)
select t.trial_id, :key, :value from trials t where t.trial_id = :trial_id
on conflict (trial_id, key) do nothing

-- name: dashboard_note
-- A note that a person wrote or changed stays.
insert into study_system_attributes (study_id, key, value_json)
select s.study_id, n.key, n.value
  from studies s cross join (values (:version_key, '1'), (:text_key, :text)) as n (key, value)
 where s.study_id = :study_id and not exists (
       select 1 from study_system_attributes a
        where a.study_id = s.study_id and a.key = :version_key)
on conflict (study_id, key) do nothing

-- name: dashboard_done
update hpo.mirror set dashboard = true where trial_id = :trial_id
