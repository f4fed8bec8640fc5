-- A study as one document, and back. Each statement `export_X` gives the rows of the section X of
-- hpo/backup_document.py, `import_X` writes them; rows come as JSON, whose numbers are read by the
-- column's own type, so that no figure changes. Trials go by their number and workers by their
-- place in the document: ids are each database's own. The document sorts its rows itself, as text is
-- not ordered alike in all databases.

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
