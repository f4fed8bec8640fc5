-- What it takes to continue a trial instead of starting it again.

-- Tests replace it to inject the time; nothing else reads a clock.
create function hpo.now() returns timestamptz language sql volatile as
$$ select clock_timestamp() $$;

create function hpo.up_since() returns timestamptz language sql volatile as
$$ select pg_postmaster_start_time() $$;

do $$
declare
    c record;
begin
    for c in select table_name, column_name from information_schema.columns
              where table_schema = 'hpo' and column_default = 'clock_timestamp()' loop
        execute format('alter table hpo.%I alter column %I set default hpo.now()',
                       c.table_name, c.column_name);
    end loop;
end $$;

-- The name of this study in the artifact store, which several databases may share.
alter table hpo.study add column uid uuid not null default gen_random_uuid();

alter table hpo.lease
    add column deaths   integer not null default 0,     -- silent ends since the last new epoch
    add column released boolean not null default false, -- given back, not silent
    add column cleared  boolean not null default false; -- after its end, its checkpoints are gone

alter table hpo.worker add column warning text;         -- what people should know while it lives

-- One row a claim: who ran the trial when, from where on, and how that ended.
create table hpo.attempt (
    token         uuid primary key,
    trial_id      integer not null,
    study_id      integer not null,
    attempt       integer not null check (attempt > 0), -- counted from 1
    worker_id     bigint not null,
    claimed_at    timestamptz not null,
    ended_at      timestamptz,
    ended         text check (ended in ('told', 'released', 'silent')),
    resumed_epoch integer not null default 0,           -- 0: from the start
    note          text,                                 -- what was wrong with newer checkpoints
    unique (trial_id, attempt)
);
create index attempt_of_study on hpo.attempt (study_id);

insert into hpo.attempt (token, trial_id, study_id, attempt, worker_id, claimed_at, ended_at, ended)
select l.token, l.trial_id, l.study_id, l.takeovers + 1, l.worker_id, l.claimed_at, l.told_at,
       case when l.told_at is not null then 'told' end
  from hpo.lease l;
update hpo.lease set cleared = true where told_at is not null;

-- Where a running trial can be continued: the newest epoch and the one before.
create table hpo.checkpoint (
    trial_id    integer not null,
    epoch       integer not null check (epoch > 0),     -- the state at this epoch's end
    token       uuid not null,                          -- of the attempt in whose area it lies
    sha256      text not null,
    bytes       bigint not null,
    best_epoch  integer,                                -- by the objective's metric
    best_sha256 text,                                   -- that epoch's weights
    best_bytes  bigint,
    recorded_at timestamptz not null,
    primary key (trial_id, epoch)
);
