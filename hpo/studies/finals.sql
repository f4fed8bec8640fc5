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
