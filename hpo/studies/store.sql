-- Studies: Optuna's rows and ours, made, found, steered and deleted together.

-- name: study_by_name
select h.study_id, h.uid, h.name, h.spec, h.spec_sha256, h.dataset_fingerprint, h.code_version,
       h.trials, h.timeout_s, h.state, h.created_at, h.first_claim_at, h.test_fingerprint,
       h.parent_id, h.model_sha256
  from hpo.study h join studies s on s.study_id = h.study_id
 where h.name = :name

-- name: study_names
-- The newest first, finals below their study, with what tells open ones from finished ones.
select h.study_id, h.name, h.state, h.trials, h.created_at, h.parent_id,
       coalesce(hpo.now() >= h.first_claim_at + hpo.seconds(h.timeout_s), false)
           as timed_out,
       (select count(*) from trials t where t.study_id = h.study_id and t.state <> 'WAITING')
           as claimed,
       (select count(*) from trials t join hpo.lease l on l.trial_id = t.trial_id
         where t.study_id = h.study_id and t.state = 'RUNNING' and l.told_at is null) as running,
       (select count(*) from trials t join hpo.lease l on l.trial_id = t.trial_id
         where t.study_id = h.study_id and t.state = 'RUNNING' and l.told_at is null
           and l.expires_at > hpo.now()) as held
  from hpo.study h join studies s on s.study_id = h.study_id
  left join hpo.study p on p.study_id = h.parent_id
 order by coalesce(p.created_at, h.created_at) desc, coalesce(p.study_id, h.study_id) desc,
          h.study_id

-- name: finals_id
select h.study_id from hpo.study h where h.parent_id = :study_id

-- name: orphaned_finals
-- Finals whose study was deleted in Optuna or optuna-dashboard.
select h.study_id from hpo.study h
 where h.parent_id is not null
   and not exists (select 1 from studies s where s.study_id = h.parent_id)
 order by h.study_id

-- name: forget_deleted
-- Rows of studies that were deleted in Optuna or optuna-dashboard. The mirror forgets its own.
with gone as (
    select h.study_id from hpo.study h
     where not exists (select 1 from studies s where s.study_id = h.study_id)
), leased as (
    delete from hpo.lease where study_id in (select study_id from gone) returning trial_id
), gone_epochs as (
    delete from hpo.epoch where trial_id in (select trial_id from leased)
), gone_files as (
    delete from hpo.artifact where trial_id in (select trial_id from leased)
), gone_attempts as (
    delete from hpo.attempt where study_id in (select study_id from gone)
), gone_checkpoints as (
    delete from hpo.checkpoint where trial_id in (select trial_id from leased)
), gone_workers as (
    delete from hpo.worker where study_id in (select study_id from gone)
), gone_finals as (
    delete from hpo.final where study_id in (select study_id from gone)
)
delete from hpo.study where study_id in (select study_id from gone)

-- name: optuna_study
select study_id from studies where study_name = :name

-- name: insert_optuna_study
-- No row when the name is taken, be it by a creator whose transaction this one waited for.
insert into studies (study_name) values (:name) on conflict do nothing returning study_id

-- name: insert_direction
insert into study_directions (direction, study_id, objective)
values (cast(:direction as studydirection), :study_id, 0)

-- name: insert_study_attr
insert into study_user_attributes (study_id, key, value_json) values (:study_id, :key, :value)

-- name: insert_study_system_attr
insert into study_system_attributes (study_id, key, value_json) values (:study_id, :key, :value)

-- name: insert_study
insert into hpo.study (study_id, name, spec, spec_sha256, dataset_fingerprint, code_version,
                       trials, timeout_s, test_fingerprint, parent_id, model_sha256)
values (:study_id, :name, cast(:spec as jsonb), :sha256, :fingerprint, :code_version,
        :trials, :timeout_s, :test_fingerprint, :parent_id, :model_sha256)

-- name: lock_study
select h.trials, h.state from studies s join hpo.study h on h.study_id = s.study_id
 where h.study_id = :study_id for update of s, h

-- name: insert_waiting
with made as (
    insert into trials (number, study_id, state)
    select coalesce(max(t.number) + 1, 0), :study_id, 'WAITING'
      from trials t where t.study_id = :study_id
    returning trial_id, number
), fixed as (
    insert into trial_system_attributes (trial_id, key, value_json)
    select trial_id, 'fixed_params', :params from made
)
select number from made

-- name: set_state
-- A study and its finals, of which there are none for a study of finals.
update hpo.study set state = :state where study_id = :study_id or parent_id = :study_id

-- name: extend
update hpo.study set trials = :trials where study_id = :study_id

-- name: claimed_and_waiting
select count(t.trial_id) filter (where t.state <> 'WAITING') as claimed,
       count(t.trial_id) filter (where t.state = 'WAITING') as waiting,
       coalesce(hpo.now() >= h.first_claim_at + hpo.seconds(h.timeout_s), false)
           as timed_out
  from hpo.study h left join trials t on t.study_id = h.study_id
 where h.study_id = :study_id
 group by h.study_id

-- name: lock_trials
-- Whoever writes for a trial holds its row: wait for them before the trial is deleted.
select count(*) from (
    select 1 from trials where study_id = :study_id order by trial_id for update) held

-- name: delete_study
-- Optuna's tables and ours in one statement: a crash leaves all of it or nothing.
with trial as (
    select trial_id from trials where study_id = :study_id
), gone as (
    delete from hpo.epoch where trial_id in (select trial_id from trial)
), gone_files as (
    delete from hpo.artifact where trial_id in (select trial_id from trial)
), gone_leases as (
    delete from hpo.lease where study_id = :study_id
), gone_attempts as (
    delete from hpo.attempt where study_id = :study_id
), gone_checkpoints as (
    delete from hpo.checkpoint where trial_id in (select trial_id from trial)
), gone_mirror as (
    delete from hpo.mirror where study_id = :study_id
), gone_mirror_study as (
    delete from hpo.mirror_study where study_id = :study_id
), gone_workers as (
    delete from hpo.worker where study_id = :study_id
), gone_finals as (
    delete from hpo.final where study_id = :study_id
), gone_ours as (
    delete from hpo.study where study_id = :study_id
), gone_params as (
    delete from trial_params where trial_id in (select trial_id from trial)
), gone_values as (
    delete from trial_values where trial_id in (select trial_id from trial)
), gone_steps as (
    delete from trial_intermediate_values where trial_id in (select trial_id from trial)
), gone_heartbeats as (
    delete from trial_heartbeats where trial_id in (select trial_id from trial)
), gone_attrs as (
    delete from trial_user_attributes where trial_id in (select trial_id from trial)
), gone_system_attrs as (
    delete from trial_system_attributes where trial_id in (select trial_id from trial)
), gone_trials as (
    delete from trials where study_id = :study_id
), gone_directions as (
    delete from study_directions where study_id = :study_id
), gone_study_attrs as (
    delete from study_user_attributes where study_id = :study_id
), gone_study_system_attrs as (
    delete from study_system_attributes where study_id = :study_id
)
delete from studies where study_id = :study_id
