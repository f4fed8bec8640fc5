-- Finals: the best trials of a study looked at again, as trials of a study of their own.

-- name: final
-- What one finals trial is to do, and the weights of the trial that it looks at.
select f.of_trial_id, f.of_number, f.seed, f.trained, w.name as weights_name, w.sha256,
       l.best_epoch, e.metrics
  from hpo.final f
  left join hpo.lease l on l.trial_id = f.of_trial_id
  left join hpo.epoch e on e.trial_id = f.of_trial_id and e.epoch = l.best_epoch
  left join lateral (
      select a.name, a.sha256 from hpo.artifact a
       where a.trial_id = f.of_trial_id and a.name like 'weights/%'
       order by (a.name = 'weights/best.pt') desc, a.name
       limit 1) w on true
 where f.trial_id = :trial

-- name: finals_study
select h.name from hpo.study h join studies s on s.study_id = h.study_id
 where h.parent_id = :study_id

-- name: parent_study
select h.name from hpo.study h join studies s on s.study_id = h.study_id
 where h.study_id = :parent_id

-- name: insert_final
insert into hpo.final (trial_id, study_id, of_trial_id, of_number, seed, trained)
select t.trial_id, t.study_id, :of_trial_id, :of_number, :seed, :trained
  from trials t where t.study_id = :study_id and t.number = :number

-- name: finals_asked
select f.of_trial_id, f.seed from hpo.final f where f.study_id = :study_id

-- name: final_results
-- Every final with its state, and what is kept of those that are complete.
select f.trial_id, t.number, f.of_trial_id, f.of_number, f.seed, f.trained,
       t.state::text as state, l.value, l.best_epoch, l.reason, m.run_id,
       (select jsonb_object_agg(a.name, a.sha256) from hpo.artifact a
         where a.trial_id = f.trial_id) as files
  from hpo.final f
  join trials t on t.trial_id = f.trial_id
  left join hpo.lease l on l.trial_id = f.trial_id
  left join hpo.mirror m on m.trial_id = f.trial_id
 where f.study_id = :study_id
 order by t.number

-- name: final_to_retry
-- `asked` is false when another trial has its place among the finals.
select t.trial_id, t.state::text as state, f.trial_id is not null as asked,
       (select a.value_json from trial_system_attributes a
         where a.trial_id = t.trial_id and a.key = 'fixed_params') as params
  from trials t left join hpo.final f on f.trial_id = t.trial_id
 where t.study_id = :study_id and t.number = :number

-- name: move_final
update hpo.final f set trial_id = t.trial_id
  from trials t
 where f.trial_id = :trial_id and t.study_id = :study_id and t.number = :number

-- name: final_of_number
-- What a trial of finals was asked to do. One that was tried again has lost its row to the next.
select f.seed, f.trained, f.of_number, p.name as parent
  from hpo.final f
  join trials t on t.trial_id = f.trial_id
  join hpo.study h on h.study_id = f.study_id
  left join hpo.study p on p.study_id = h.parent_id
 where f.study_id = :study_id and t.number = :number
