-- The functions of the schema `hpo` (hpo/storage/postgres/migrations), as Python calls them.

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
