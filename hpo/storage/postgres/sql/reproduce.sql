-- What `hpo reproduce` reads beside `hpo show`.

-- name: final_of_number
-- What a trial of finals was asked to do. One that was tried again has lost its row to the next.
select f.seed, f.trained, f.of_number, p.name as parent
  from hpo.final f
  join trials t on t.trial_id = f.trial_id
  join hpo.study h on h.study_id = f.study_id
  left join hpo.study p on p.study_id = h.parent_id
 where f.study_id = :study_id and t.number = :number
