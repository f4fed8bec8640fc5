-- What is recorded of promotions, and the lock of a registered model.

-- name: promotion_by_id
select * from hpo.promotion where promotion_id = cast(:promotion_id as uuid)

-- name: promotion_by_tag
-- The latest promotion of the version with that tag. An override has a name of its own.
select * from hpo.promotion
 where outcome = 'promoted'
   and (promotion_id::text = :decision or evidence ->> 'decision' = :decision)
 order by seq desc
 limit 1

-- name: promotions_of_model
select * from hpo.promotion
 where model = :model and (cast(:alias as text) is null or alias = :alias)
 order by seq

-- name: promotion_known
-- Whether a trial had been decided about before a certain decision.
select exists (select 1 from hpo.promotion p
                where p.study_id = :study_id and p.trial_number = :trial and p.seq < :seq)

-- name: insert_promotion
-- The row, and with it the end of the move that was noted for it.
with noted as (
    delete from hpo.alias_move where promotion_id = cast(:promotion_id as uuid))
insert into hpo.promotion (promotion_id, study_id, study_name, outcome, model, alias,
                           trial_number, version, previous_version, evidence, override, why,
                           actor)
values (cast(:promotion_id as uuid), :study_id, :study_name, :outcome, :model, :alias,
        :trial_number, :version, :previous_version, cast(:evidence as jsonb), :override, :why,
        :actor)
on conflict (promotion_id) do nothing

-- name: note_move
-- What is about to be done to an alias, before it is done. A note that is there was never acted on.
insert into hpo.alias_move (model, alias, promotion_id, after_id, to_version, before_version,
                            promotion)
values (:model, :alias, cast(:promotion_id as uuid), (
        select p.promotion_id from hpo.promotion p
         where p.model = :model and p.alias = :alias and p.outcome in ('promoted', 'rolled_back')
         order by p.seq desc limit 1),
        :to_version, :before_version, cast(:promotion as jsonb))
on conflict (model, alias) do update
   set promotion_id = excluded.promotion_id, after_id = excluded.after_id,
       to_version = excluded.to_version, before_version = excluded.before_version,
       promotion = excluded.promotion, noted_at = clock_timestamp()

-- name: noted_move
select * from hpo.alias_move where model = :model and alias = :alias

-- name: promoting_study
-- The newest study that promotes to a model.
select h.study_id, h.name from hpo.study h
 where h.spec -> 'promotion' ->> 'model' = :model
 order by h.created_at desc
 limit 1

-- name: try_promotion_lock
select pg_try_advisory_xact_lock(hashtext('hpo:promotion:' || :model))

-- name: unhurried
-- A promotion takes as long as packaging and uploading do; only for this transaction, so that it
-- is safe behind PgBouncer.
select set_config('idle_in_transaction_session_timeout', '0', true),
       set_config('statement_timeout', '0', true)
