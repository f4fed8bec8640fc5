-- What is known of datasets in the artifact store.

-- name: dataset
select d.fingerprint, d.sha256, d.bytes, d.images, d.keys, d.pushed_at, d.pushed_by
  from hpo.dataset d where d.fingerprint = :fingerprint

-- name: datasets
-- The newest first, with the studies that were created on them.
select d.fingerprint, d.sha256, d.bytes, d.images, d.keys, d.pushed_at, d.pushed_by,
       coalesce(array_agg(s.study_name order by s.study_id)
                filter (where s.study_id is not null), '{}') as studies
  from hpo.dataset d
  left join hpo.study h on h.dataset_fingerprint = d.fingerprint and h.parent_id is null
  left join studies s on s.study_id = h.study_id
 group by d.fingerprint
 order by d.pushed_at desc, d.fingerprint

-- name: record_dataset
-- One that was pushed again replaces what was known of it.
insert into hpo.dataset (fingerprint, sha256, bytes, images, keys, pushed_by)
values (:fingerprint, :sha256, :bytes, cast(:images as jsonb), cast(:keys as jsonb), :pushed_by)
    on conflict (fingerprint) do update
   set sha256 = excluded.sha256, bytes = excluded.bytes, images = excluded.images,
       keys = excluded.keys, pushed_at = hpo.now(), pushed_by = excluded.pushed_by

-- name: import_dataset
-- From a study's file: one that this database knows stays as it is.
insert into hpo.dataset (fingerprint, sha256, bytes, images, keys, pushed_at, pushed_by)
select d.fingerprint, d.sha256, d.bytes, d.images, d.keys, d.pushed_at, d.pushed_by
  from jsonb_populate_record(null::hpo.dataset, cast(:row as jsonb)) d
    on conflict (fingerprint) do nothing
