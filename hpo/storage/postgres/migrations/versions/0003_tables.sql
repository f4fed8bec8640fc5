-- What it takes to trust a promotion, and to undo it.

alter table hpo.study
    add column parent_id        integer,            -- of finals: the study whose best trials they are
    add column test_fingerprint text;               -- of the test split; null where none was known
create unique index finals_of_study on hpo.study (parent_id) where parent_id is not null;

-- One row a trial of a finals study: which trial of the parent it looks at again.
create table hpo.final (
    trial_id    integer primary key,
    study_id    integer not null,                   -- the finals study
    of_trial_id integer not null,                   -- the parent's trial
    of_number   integer not null,
    seed        bigint not null,                    -- of the training
    trained     boolean not null,                   -- false: the trial's own weights are evaluated
    unique (study_id, of_trial_id, seed)
);

-- Python, packages, processor and GPU of a worker: what `hpo reproduce` compares.
alter table hpo.worker add column environment jsonb;

alter table hpo.promotion drop constraint promotion_outcome_check;
alter table hpo.promotion
    add constraint promotion_outcome_check
        check (outcome in ('promoted', 'kept', 'inconclusive', 'none', 'rolled_back')),
    add column seq      bigint,                     -- the order; clocks are not asked
    add column override boolean not null default false,  -- by a person, past the gate
    add column why      text,                       -- what that person said
    add column actor    text;                       -- user@host

alter table hpo.promotion disable trigger promotion_append_only;
update hpo.promotion p set seq = o.place
  from (select promotion_id, row_number() over (order by decided_at, promotion_id) as place
          from hpo.promotion) o
 where o.promotion_id = p.promotion_id;
alter table hpo.promotion enable trigger promotion_append_only;
alter table hpo.promotion alter column seq set not null;
alter table hpo.promotion alter column seq add generated always as identity;
select setval(pg_get_serial_sequence('hpo.promotion', 'seq'),
              (select count(*) + 1 from hpo.promotion), false);
create unique index promotion_order on hpo.promotion (seq);

-- A move of an alias in MLflow that has begun, with the row of hpo.promotion it is made for. The
-- row's insertion removes it: one that is left was interrupted.
create table hpo.alias_move (
    model          text not null,
    alias          text not null,
    promotion_id   uuid not null,
    after_id       uuid,                            -- the last word about the champion before it
    to_version     integer,                         -- null: the alias is removed
    before_version integer,                         -- null: there was no champion
    promotion      jsonb not null,                  -- that row
    noted_at       timestamptz not null default hpo.now(),
    primary key (model, alias)
);
