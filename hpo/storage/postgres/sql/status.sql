-- What people and `hpo status` read; PostgreSQL only.

-- name: status_counts
select count(*) filter (where t.state = 'COMPLETE') as complete,
       count(*) filter (where t.state = 'PRUNED')   as pruned,
       count(*) filter (where t.state = 'FAIL')     as failed,
       count(*) filter (where t.state = 'RUNNING')  as running,
       count(*) filter (where t.state = 'WAITING')  as waiting,
       count(*) filter (where t.state = 'RUNNING' and l.trial_id is not null
                          and l.told_at is null and l.expires_at > hpo.now()) as leased,
       avg(extract(epoch from t.datetime_complete - t.datetime_start))
           filter (where t.state in ('COMPLETE', 'PRUNED')) as mean_trial_s
  from trials t left join hpo.lease l on l.trial_id = t.trial_id
 where t.study_id = :study_id

-- name: status_best
-- Only a trial told under a lease can be best: a value typed into the dashboard cannot.
select t.number, l.value, l.best_epoch, t.trial_id
  from hpo.lease l join trials t on t.trial_id = l.trial_id
 where l.study_id = :study_id and l.told_state = 'COMPLETE' and t.state = 'COMPLETE'
 order by case when :maximize then -l.value else l.value end, t.number
 limit 1

-- name: status_workers
select w.host, w.pid, w.device, w.warning, t.number as trial,
       (select max(e.epoch) from hpo.epoch e where e.trial_id = t.trial_id) as epoch,
       (select v.intermediate_value from trial_intermediate_values v
         where v.trial_id = t.trial_id order by v.step desc limit 1) as value,
       extract(epoch from l.expires_at - hpo.now()) as lease_s
  from hpo.worker w
  left join (hpo.lease l join trials t on t.trial_id = l.trial_id and t.state = 'RUNNING')
    on l.worker_id = w.worker_id and l.told_at is null
 where w.study_id = :study_id and w.ended_at is null and w.expires_at > hpo.now()
 order by w.worker_id

-- name: status_finals
-- How far the finals of a study are. One that failed and was tried again counts once.
select h.study_id, h.name, count(t.trial_id) as trials,
       count(*) filter (where t.state = 'COMPLETE' and l.told_state = 'COMPLETE') as done,
       count(*) filter (where t.state = 'RUNNING') as running,
       count(*) filter (where t.state = 'WAITING') as waiting
  from hpo.study h join studies s on s.study_id = h.study_id
  left join hpo.final f on f.study_id = h.study_id
  left join trials t on t.trial_id = f.trial_id
  left join hpo.lease l on l.trial_id = t.trial_id
 where h.parent_id = :study_id
 group by h.study_id

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

-- name: training_now
select w.host || ':' || w.pid from hpo.lease l join hpo.worker w on w.worker_id = l.worker_id
 where l.told_at is null and l.expires_at > hpo.now() and w.ended_at is null
 order by w.worker_id
