-- What the finalizer reads and writes. A trial competes only when it was told under a lease.

-- name: promotion_standing
-- Whether a study is over, as hpo.claim decides it, and what its trials came to. `typed` are
-- trials that another hand (optuna-dashboard) completed.
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

-- name: promotion_candidate
-- The best trial, the earliest on a tie, and the weights kept of its best epoch.
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
 limit 1

-- name: promotion_figures
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

-- name: promotion_by_id
select * from hpo.promotion where promotion_id = cast(:promotion_id as uuid)

-- name: insert_promotion
insert into hpo.promotion (promotion_id, study_id, study_name, outcome, model, alias,
                           trial_number, version, previous_version, evidence)
values (cast(:promotion_id as uuid), :study_id, :study_name, :outcome, :model, :alias,
        :trial_number, :version, :previous_version, cast(:evidence as jsonb))
on conflict (promotion_id) do nothing

-- name: champion
-- The champion of a registered model by our own record; MLflow's alias is not asked.
select promotion_id, study_name, decided_at, model, alias, trial_number, version,
       previous_version, evidence
  from hpo.promotion
 where model = :model and outcome = 'promoted'
 order by decided_at desc
 limit 1

-- name: try_promotion_lock
select pg_try_advisory_xact_lock(hashtext('hpo:promotion:' || :model))

-- name: unhurried
-- A promotion takes as long as packaging and uploading do; only for this transaction, so that it
-- is safe behind PgBouncer.
select set_config('idle_in_transaction_session_timeout', '0', true),
       set_config('statement_timeout', '0', true)

-- name: promotion_by_tag
select * from hpo.promotion where promotion_id::text = :decision and outcome = 'promoted'

-- name: promotion_run
select m.run_id from hpo.mirror m where m.trial_id = :trial_id and m.files

-- name: last_decision
select outcome, trial_number from hpo.promotion
 where study_id = :study_id order by decided_at desc limit 1
