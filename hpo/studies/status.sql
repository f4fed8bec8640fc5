-- Where a study stands: its trials, workers, finals, mirror and promotion.

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

-- name: training_now
select w.host || ':' || w.pid from hpo.lease l join hpo.worker w on w.worker_id = l.worker_id
 where l.told_at is null and l.expires_at > hpo.now() and w.ended_at is null
 order by w.worker_id

-- name: mirror_behind
-- The one answer to "what is not in MLflow yet": trials, and the study's own run. No row when the
-- study does not exist. An ended trial's epochs are not looked at: nothing can be added to them.
with pending as (
    select t.trial_id, t.number
      from trials t left join hpo.mirror m on m.trial_id = t.trial_id
     where t.study_id = :study_id and t.state <> 'WAITING'
       and (m.run_id is null
            or m.state is distinct from t.state::text
            or (t.state <> 'RUNNING' and not m.files)
            or (t.state = 'RUNNING' and (
                exists (select 1 from hpo.epoch e
                         where e.trial_id = t.trial_id and e.change > m.change)
                or m.steps < (select count(*) from trial_intermediate_values v
                               where v.trial_id = t.trial_id and not exists (
                                   select 1 from hpo.epoch e
                                    where e.trial_id = v.trial_id and e.epoch = v.step)))))
), now as (
    select case
             when h.state = 'stopped' then 'stopped'
             when exists (select 1 from trials t left join hpo.lease l on l.trial_id = t.trial_id
                           where t.study_id = s.study_id and t.state = 'RUNNING'
                             and (h.study_id is null or l.told_at is null)) then 'open'
             when h.study_id is null then 'finished'
             when hpo.now() >= h.first_claim_at + hpo.seconds(h.timeout_s) then 'finished'
             when h.trials <= (select count(*) from trials t
                                where t.study_id = s.study_id and t.state <> 'WAITING')
             then 'finished'
             else 'open'
           end as state
      from studies s left join hpo.study h on h.study_id = s.study_id
     where s.study_id = :study_id
), parent as (
    select now.state, (m.run_id is null or m.state is distinct from now.state) as behind
      from now left join hpo.mirror_study m on m.study_id = :study_id
)
select (select count(*) from pending) + parent.behind::int as behind,
       parent.state as study_state, parent.behind as study_behind,
       coalesce((select array_agg(p.trial_id order by p.number) from pending p), '{}') as trials
  from parent

-- name: mirror_error
-- Why MLflow is behind: what is in the way of all, else of one trial.
select coalesce(
    (select s.error from hpo.mirror_study s where s.study_id = :study_id),
    (select m.error from hpo.mirror m
      where m.study_id = :study_id and m.error is not null
      order by m.updated_at desc limit 1)) as error

-- name: champion
-- The last word about a registered model's champion by our own record; its `version` is null after
-- a rollback to none. MLflow's alias is not asked. Without an alias: of whichever.
select * from hpo.promotion
 where model = :model and (cast(:alias as text) is null or alias = :alias)
   and outcome in ('promoted', 'rolled_back')
 order by seq desc
 limit 1

-- name: last_decision
-- A rollback decides nothing about a study's best trial.
select outcome, trial_number from hpo.promotion
 where study_id = :study_id and outcome <> 'rolled_back' order by seq desc limit 1

-- name: completion
-- Whether a study is over, as hpo.claim decides it, and what its trials came to. `typed` are
-- trials that were completed outside this service (in optuna-dashboard).
select h.trials, h.state,
       coalesce(hpo.now() >= h.first_claim_at + hpo.seconds(h.timeout_s), false)
           as timed_out,
       count(t.trial_id) filter (where t.state <> 'WAITING') as claimed,
       count(*) filter (where t.state = 'RUNNING' and (
           (l.trial_id is not null and l.told_at is null)
           or (l.trial_id is null and exists (
               select 1 from trial_system_attributes a
                where a.trial_id = t.trial_id and a.key = 'hpo:claimed')))) as running,
       count(*) filter (where t.state = 'COMPLETE' and l.told_state = 'COMPLETE') as complete,
       count(*) filter (where t.state = 'PRUNED' and l.told_state = 'PRUNED') as pruned,
       count(*) filter (where t.state = 'FAIL') as failed,
       count(*) filter (where t.state = 'COMPLETE' and l.told_state is distinct from 'COMPLETE')
           as typed
  from hpo.study h
  join studies s on s.study_id = h.study_id
  left join trials t on t.study_id = h.study_id
  left join hpo.lease l on l.trial_id = t.trial_id
 where h.study_id = :study_id
 group by h.study_id
