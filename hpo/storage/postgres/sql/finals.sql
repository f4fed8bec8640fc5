-- Finals: the best trials of a study looked at again, as trials of a study of their own.

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

-- name: promotion_cost
-- Seconds of training, validation and evaluation of a study's trials and of its finals, by device.
select coalesce(a.value_json::jsonb #>> '{}', '') as device, h.parent_id is not null as is_final,
       sum(case when f.trial_id is null or f.trained then coalesce(
               (select sum((e.metrics ->> 'seconds')::double precision)
                  from hpo.epoch e where e.trial_id = t.trial_id), 0) else 0 end
           + coalesce((s.value_json)::double precision, 0)) as seconds
  from hpo.study h
  join trials t on t.study_id = h.study_id
  left join hpo.final f on f.trial_id = t.trial_id
  left join trial_user_attributes a on a.trial_id = t.trial_id and a.key = 'device'
  left join trial_user_attributes s on s.trial_id = t.trial_id and s.key = 'evaluate_s'
 where (h.study_id = :study_id or h.parent_id = :study_id) and t.state <> 'WAITING'
 group by 1, 2
