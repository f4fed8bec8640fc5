-- What samplers, pruners and readers take from Optuna's tables, each in one statement.

-- name: history
-- Trials of a study whose ids are not known yet; the running and waiting ones always.
select t.trial_id, t.number, t.state::text as state,
       t.datetime_start, t.datetime_complete,
       (select coalesce(jsonb_object_agg(p.param_name,
                   jsonb_build_array(p.param_value, p.distribution_json)), '{}')
          from trial_params p where p.trial_id = t.trial_id) as params,
       (select coalesce(jsonb_object_agg(v.step,
                   jsonb_build_array(v.intermediate_value, v.intermediate_value_type::text)), '{}')
          from trial_intermediate_values v where v.trial_id = t.trial_id) as steps,
       (select coalesce(jsonb_object_agg(a.key, a.value_json), '{}')
          from trial_system_attributes a where a.trial_id = t.trial_id) as system_attrs,
       (select jsonb_build_array(v.value, v.value_type::text)
          from trial_values v where v.trial_id = t.trial_id and v.objective = 0) as value
  from trials t
 where t.study_id = :study_id and t.trial_id <> all(:known)
 order by t.number

-- name: study_attrs
-- optuna-dashboard's notes, two rows a trial, are of no use to samplers and pruners.
select a.key, a.value_json from study_system_attributes a
 where a.study_id = :study_id and a.key not like 'dashboard:%'
