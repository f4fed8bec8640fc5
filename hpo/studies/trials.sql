-- A study's trials, for people and for the promotion.

-- name: trial_rows
select t.number, t.state::text as state, t.trial_id, l.value, l.best_epoch, l.reason, l.told_state,
       coalesce(l.takeovers, 0) as takeovers, w.host, w.pid, m.run_id,
       t.datetime_start, t.datetime_complete,
       (select count(*) from hpo.epoch e where e.trial_id = t.trial_id) as epochs,
       (select coalesce(jsonb_object_agg(p.param_name,
                   jsonb_build_array(p.param_value, p.distribution_json)), '{}')
          from trial_params p where p.trial_id = t.trial_id) as params,
       (select a.value_json from trial_system_attributes a
         where a.trial_id = t.trial_id and a.key = 'fixed_params') as fixed
  from trials t
  left join hpo.lease l on l.trial_id = t.trial_id
  left join hpo.worker w on w.worker_id = l.worker_id
  left join hpo.mirror m on m.trial_id = t.trial_id
 where t.study_id = :study_id and (cast(:number as integer) is null or t.number = :number)
 order by t.number

-- name: trial_epochs
select e.epoch, e.metrics, e.recorded_at from hpo.epoch e
 where e.trial_id = :trial_id order by e.epoch

-- name: trial_attempts
select a.attempt, w.host || ':' || w.pid as worker, a.claimed_at as claimed, a.ended_at as ended,
       a.ended as how, a.resumed_epoch, a.note, w.environment
  from hpo.attempt a left join hpo.worker w on w.worker_id = a.worker_id
 where a.trial_id = :trial_id order by a.attempt

-- name: trial_checkpoints
select c.epoch, c.bytes, c.best_epoch, c.recorded_at as at from hpo.checkpoint c
 where c.trial_id = :trial_id order by c.epoch

-- name: trial_files
select name, sha256, bytes, epoch from hpo.artifact where trial_id = :trial_id order by name

-- name: trial_attrs
select key, value_json from trial_user_attributes where trial_id = :trial_id order by key

-- name: best_trials
-- The best trials, the earlier first on a tie, and the weights kept of their best epochs.
select t.trial_id, t.number, l.value, l.best_epoch, w.name as weights_name, w.sha256
  from hpo.lease l
  join trials t on t.trial_id = l.trial_id and t.state = 'COMPLETE'
  left join lateral (
      select a.name, a.sha256 from hpo.artifact a
       where a.trial_id = t.trial_id and a.name like 'weights/%'
       order by (a.name = 'weights/best.pt') desc, a.name
       limit 1) w on true
 where l.study_id = :study_id and l.told_state = 'COMPLETE' and l.value is not null
 order by case when :maximize then -l.value else l.value end, t.number
 limit :limit

-- name: trial_figures
-- Every ended trial with the figures of its best epoch, and what it cost.
select t.number, l.told_state as state, l.value, l.best_epoch, e.metrics,
       (select sum((c.metrics ->> 'seconds')::double precision)
          from hpo.epoch c where c.trial_id = t.trial_id) as train_s,
       (select count(*) from hpo.epoch c where c.trial_id = t.trial_id) as epochs
  from hpo.lease l
  join trials t on t.trial_id = l.trial_id
  left join hpo.epoch e on e.trial_id = t.trial_id and e.epoch = l.best_epoch
 where l.study_id = :study_id and l.told_at is not null
 order by t.number

-- name: training_cost
-- Seconds of training, validation and evaluation of a study's trials and of its finals, by device.
select coalesce(a.value_json::jsonb #>> '{}', '') as device, h.parent_id is not null as is_final,
       sum(case when f.trial_id is null or f.trained then coalesce(
               (select sum((e.metrics ->> 'seconds')::double precision)
                  from hpo.epoch e where e.trial_id = t.trial_id), 0) else 0 end
           + coalesce((s.value_json)::double precision, 0)) as seconds
  from hpo.study h
  join trials t on t.study_id = h.study_id
  left join hpo.final f on f.trial_id = t.trial_id
  left join trial_user_attributes a on a.trial_id = t.trial_id and a.key = 'device'
  left join trial_user_attributes s on s.trial_id = t.trial_id and s.key = 'evaluate_s'
 where (h.study_id = :study_id or h.parent_id = :study_id) and t.state <> 'WAITING'
 group by 1, 2
