-- What the finalizer reads and writes. A trial competes only when it was told under a lease.

-- name: promotion_standing
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

-- name: promotion_candidates
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
-- The row, and with it the end of the move that was noted for it.
with noted as (
    delete from hpo.alias_move where promotion_id = cast(:promotion_id as uuid))
insert into hpo.promotion (promotion_id, study_id, study_name, outcome, model, alias,
                           trial_number, version, previous_version, evidence, override, why,
                           actor)
values (cast(:promotion_id as uuid), :study_id, :study_name, :outcome, :model, :alias,
        :trial_number, :version, :previous_version, cast(:evidence as jsonb), :override, :why,
        :actor)
on conflict (promotion_id) do nothing

-- name: note_move
-- What is about to be done to an alias, before it is done. A note that is there was never acted on.
insert into hpo.alias_move (model, alias, promotion_id, after_id, to_version, before_version,
                            promotion)
values (:model, :alias, cast(:promotion_id as uuid), (
        select p.promotion_id from hpo.promotion p
         where p.model = :model and p.alias = :alias and p.outcome in ('promoted', 'rolled_back')
         order by p.seq desc limit 1),
        :to_version, :before_version, cast(:promotion as jsonb))
on conflict (model, alias) do update
   set promotion_id = excluded.promotion_id, after_id = excluded.after_id,
       to_version = excluded.to_version, before_version = excluded.before_version,
       promotion = excluded.promotion, noted_at = clock_timestamp()

-- name: noted_move
select * from hpo.alias_move where model = :model and alias = :alias

-- name: champion
-- The last word about a registered model's champion by our own record; its `version` is null after
-- a rollback to none. MLflow's alias is not asked. Without an alias: of whichever.
select * from hpo.promotion
 where model = :model and (cast(:alias as text) is null or alias = :alias)
   and outcome in ('promoted', 'rolled_back')
 order by seq desc
 limit 1

-- name: promotions_of_model
select * from hpo.promotion
 where model = :model and (cast(:alias as text) is null or alias = :alias)
 order by seq

-- name: promoting_study
-- The newest study that promotes to a model.
select h.study_id, h.name from hpo.study h
 where h.spec -> 'promotion' ->> 'model' = :model
 order by h.created_at desc
 limit 1

-- name: try_promotion_lock
select pg_try_advisory_xact_lock(hashtext('hpo:promotion:' || :model))

-- name: unhurried
-- A promotion takes as long as packaging and uploading do; only for this transaction, so that it
-- is safe behind PgBouncer.
select set_config('idle_in_transaction_session_timeout', '0', true),
       set_config('statement_timeout', '0', true)

-- name: promotion_by_tag
-- The latest promotion of the version with that tag. An override has a name of its own.
select * from hpo.promotion
 where outcome = 'promoted'
   and (promotion_id::text = :decision or evidence ->> 'decision' = :decision)
 order by seq desc
 limit 1

-- name: promotion_run
select m.run_id from hpo.mirror m where m.trial_id = :trial_id and m.files

-- name: last_decision
-- A rollback decides nothing about a study's best trial.
select outcome, trial_number from hpo.promotion
 where study_id = :study_id and outcome <> 'rolled_back' order by seq desc limit 1

-- name: promotion_known
-- Whether a trial had been decided about before a certain decision.
select exists (select 1 from hpo.promotion p
                where p.study_id = :study_id and p.trial_number = :trial and p.seq < :seq)
