-- A study from its document: each statement `import_X` writes the section X of document.py. Rows come as
-- JSON, whose numbers are read by the column's own type, so that no figure changes. Trials go by their
-- number and workers by their place in the document: ids are each database's own.

-- name: import_study
insert into hpo.study (study_id, name, uid, spec, spec_sha256, dataset_fingerprint, code_version,
                       trials, timeout_s, state, created_at, first_claim_at, test_fingerprint,
                       model_sha256, parent_id)
select :study_id, r.name, r.uid, r.spec, r.spec_sha256, r.dataset_fingerprint, r.code_version,
       r.trials, r.timeout_s, r.state, r.created_at, r.first_claim_at, r.test_fingerprint,
       r.model_sha256, :parent_id
  from json_to_recordset(cast(:rows as json)) as r(
       name text, uid uuid, spec jsonb, spec_sha256 text, dataset_fingerprint text,
       code_version text, trials integer, timeout_s double precision, state text,
       created_at timestamptz, first_claim_at timestamptz, test_fingerprint text,
       model_sha256 text)

-- name: import_final
insert into hpo.final (trial_id, study_id, of_trial_id, of_number, seed, trained)
select r.trial, :study_id, p.trial_id, p.number, r.seed, r.trained
  from json_to_recordset(cast(:rows as json)) as r(
       trial integer, of_trial integer, seed bigint, trained boolean)
  join trials p on p.study_id = :parent_id and p.number = r.of_trial

-- name: import_directions
insert into study_directions (study_id, objective, direction)
select :study_id, r.objective, r.direction
  from json_to_recordset(cast(:rows as json)) as r(objective integer, direction studydirection)

-- name: import_study_user_attrs
insert into study_user_attributes (study_id, key, value_json)
select :study_id, r.key, r.value_json
  from json_to_recordset(cast(:rows as json)) as r(key text, value_json text)

-- name: import_study_system_attrs
insert into study_system_attributes (study_id, key, value_json)
select :study_id, r.key, r.value_json
  from json_to_recordset(cast(:rows as json)) as r(key text, value_json text)

-- name: import_trials
-- In the order of their numbers: Optuna lists trials by their ids.
insert into trials (study_id, number, state, datetime_start, datetime_complete)
select :study_id, r.trial, r.state, r.datetime_start, r.datetime_complete
  from json_to_recordset(cast(:rows as json)) as r(
       trial integer, state trialstate, datetime_start timestamp, datetime_complete timestamp)
 order by r.trial

-- name: import_trial_ids
select t.number, t.trial_id from trials t where t.study_id = :study_id

-- name: import_params
insert into trial_params (trial_id, param_name, param_value, distribution_json)
select r.trial, r.param_name, r.param_value, r.distribution_json
  from json_to_recordset(cast(:rows as json)) as r(
       trial integer, param_name text, param_value double precision, distribution_json text)

-- name: import_values
insert into trial_values (trial_id, objective, value, value_type)
select r.trial, r.objective, r.value, r.value_type
  from json_to_recordset(cast(:rows as json)) as r(
       trial integer, objective integer, value double precision, value_type trialvaluetype)

-- name: import_intermediate_values
insert into trial_intermediate_values
    (trial_id, step, intermediate_value, intermediate_value_type)
select r.trial, r.step, r.intermediate_value, r.intermediate_value_type
  from json_to_recordset(cast(:rows as json)) as r(
       trial integer, step integer, intermediate_value double precision,
       intermediate_value_type trialintermediatevaluetype)

-- name: import_trial_user_attrs
insert into trial_user_attributes (trial_id, key, value_json)
select r.trial, r.key, r.value_json
  from json_to_recordset(cast(:rows as json)) as r(trial integer, key text, value_json text)

-- name: import_trial_system_attrs
insert into trial_system_attributes (trial_id, key, value_json)
select r.trial, r.key, r.value_json
  from json_to_recordset(cast(:rows as json)) as r(trial integer, key text, value_json text)

-- name: import_worker_ids
select nextval(pg_get_serial_sequence('hpo.worker', 'worker_id'))
  from generate_series(1, cast(:count as integer))

-- name: import_workers
-- None of them is alive here, so none is without an expiry in the past.
insert into hpo.worker (worker_id, study_id, host, pid, device, started_at, seen_at, expires_at,
                        ended_at, ended_why, environment)
overriding system value
select r.worker, :study_id, r.host, r.pid, r.device, r.started_at, r.seen_at, r.seen_at,
       r.ended_at, r.ended_why, r.environment
  from json_to_recordset(cast(:rows as json)) as r(
       worker bigint, host text, pid integer, device text, started_at timestamptz,
       seen_at timestamptz, ended_at timestamptz, ended_why text, environment jsonb)

-- name: import_leases
-- A trial that was running is free at once, given back and not silent. What has ended has no
-- checkpoints here to be cleared.
insert into hpo.lease (trial_id, study_id, worker_id, token, claimed_at, expires_at, takeovers,
                       deaths, released, cleared, told_at, told_state, value, best_epoch, reason)
select r.trial, :study_id, coalesce(r.worker, 0), r.token, r.claimed_at,
       coalesce(r.told_at, hpo.now()), r.takeovers, r.deaths, r.told_at is null,
       r.told_at is not null, r.told_at, r.told_state, r.value, r.best_epoch, r.reason
  from json_to_recordset(cast(:rows as json)) as r(
       trial integer, worker bigint, token uuid, claimed_at timestamptz, takeovers integer,
       deaths integer, told_at timestamptz, told_state text, value double precision,
       best_epoch integer, reason text)

-- name: import_attempts
insert into hpo.attempt (token, trial_id, study_id, attempt, worker_id, claimed_at, ended_at,
                         ended, resumed_epoch, note)
select r.token, r.trial, :study_id, r.attempt, coalesce(r.worker, 0), r.claimed_at, r.ended_at,
       r.ended, r.resumed_epoch, r.note
  from json_to_recordset(cast(:rows as json)) as r(
       token uuid, trial integer, attempt integer, worker bigint, claimed_at timestamptz,
       ended_at timestamptz, ended text, resumed_epoch integer, note text)

-- name: import_epochs
insert into hpo.epoch (trial_id, epoch, metrics, recorded_at)
select r.trial, r.epoch, r.metrics, r.recorded_at
  from json_to_recordset(cast(:rows as json)) as r(
       trial integer, epoch integer, metrics jsonb, recorded_at timestamptz)

-- name: import_artifacts
insert into hpo.artifact (trial_id, name, sha256, bytes, epoch, recorded_at)
select r.trial, r.name, r.sha256, r.bytes, r.epoch, r.recorded_at
  from json_to_recordset(cast(:rows as json)) as r(
       trial integer, name text, sha256 text, bytes bigint, epoch integer,
       recorded_at timestamptz)

-- name: import_checkpoints
insert into hpo.checkpoint (trial_id, epoch, token, sha256, bytes, best_epoch, best_sha256,
                            best_bytes, recorded_at)
select r.trial, r.epoch, r.token, r.sha256, r.bytes, r.best_epoch, r.best_sha256, r.best_bytes,
       r.recorded_at
  from json_to_recordset(cast(:rows as json)) as r(
       trial integer, epoch integer, token uuid, sha256 text, bytes bigint, best_epoch integer,
       best_sha256 text, best_bytes bigint, recorded_at timestamptz)

-- name: import_promotions
-- Those that are here already are of this study before it was deleted. Of the others, what was
-- decided about a model before something that is known here comes before all that is known here:
-- the newest decision says who is champion.
with given as (
    select r.*, exists (select 1 from hpo.promotion p
                         where p.model = r.model and p.decided_at > r.decided_at) as older
      from json_to_recordset(cast(:rows as json)) as r(
           place integer, promotion_id uuid, decided_at timestamptz, outcome text, model text,
           alias text, trial_number integer, version integer, previous_version integer,
           override boolean, why text, actor text, evidence jsonb)
     where not exists (select 1 from hpo.promotion p where p.promotion_id = r.promotion_id)
     order by r.place
), first as (
    select least(coalesce(min(p.seq), 1), 1) as seq from hpo.promotion p
)
insert into hpo.promotion (promotion_id, study_id, study_name, decided_at, outcome, model, alias,
                           trial_number, version, previous_version, override, why, actor, evidence,
                           seq)
overriding system value
select g.promotion_id, :study_id, :name, g.decided_at, g.outcome, g.model, g.alias,
       g.trial_number, g.version, g.previous_version, g.override, g.why, g.actor, g.evidence,
       case when g.older
            then first.seq - row_number() over (partition by g.older order by g.place desc)
            else nextval(pg_get_serial_sequence('hpo.promotion', 'seq'))
        end
  from given g cross join first
 order by g.place
on conflict (promotion_id) do nothing
