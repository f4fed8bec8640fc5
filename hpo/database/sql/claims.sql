-- The functions of the schema `hpo` (hpo/database/migrations), as Python calls them.

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

-- name: tell
select hpo.tell(:trial, cast(:token as uuid), :state, :reason, cast(:attrs as jsonb), cast(:files as jsonb))
       as standing

-- name: release
select hpo.release(:trial, cast(:token as uuid)) as released
