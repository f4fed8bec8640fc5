-- The schema hpo: what Optuna's own tables do not hold. No foreign key leads into Optuna's tables:
-- it would turn deleting a study in Optuna into a silent no-op. Times are the database's clock.

create table hpo.study (
    study_id            integer primary key,        -- Optuna's studies.study_id
    name                text not null unique,
    spec                jsonb not null,             -- the whole study file, search space included
    spec_sha256         text not null,
    dataset_fingerprint text,                       -- null where the trainer needs no data
    code_version        text not null,              -- of the trainer
    trials              integer not null check (trials > 0),  -- budget, raised by `hpo extend`
    timeout_s           double precision check (timeout_s > 0),
    state               text not null default 'open' check (state in ('open', 'stopped')),
    created_at          timestamptz not null default clock_timestamp(),
    first_claim_at      timestamptz                 -- the timeout counts from here
);

create table hpo.worker (
    worker_id  bigint generated always as identity primary key,
    study_id   integer not null,
    host       text not null,
    pid        integer not null,
    device     text not null,
    slot       text,                                -- outlives a restart of a Ray actor
    started_at timestamptz not null default clock_timestamp(),
    seen_at    timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null default clock_timestamp(),  -- taken for gone after this
    ended_at   timestamptz,
    ended_why  text
);
create index worker_of_study on hpo.worker (study_id);

-- One row a claimed trial, kept after its end: who ran it last, and what it was told under.
create table hpo.lease (
    trial_id   integer primary key,
    study_id   integer not null,
    worker_id  bigint not null,
    token      uuid not null unique,
    claimed_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    takeovers  integer not null default 0,
    told_at    timestamptz,                         -- null until the trial ended under this lease
    told_state text check (told_state in ('COMPLETE', 'PRUNED', 'FAIL')),
    value      double precision,                    -- of the best recorded epoch
    best_epoch integer,
    reason     text                                 -- why a FAIL
);
create index lease_of_study on hpo.lease (study_id);
create index lease_held on hpo.lease (study_id, expires_at) where told_at is null;

create sequence hpo.change;

create table hpo.epoch (
    trial_id    integer not null,
    epoch       integer not null check (epoch > 0), -- counted from 1
    metrics     jsonb not null,                     -- every metric; null stands for NaN
    recorded_at timestamptz not null default clock_timestamp(),
    change      bigint not null default nextval('hpo.change'),  -- grows with each write
    primary key (trial_id, epoch)
);

-- A finished trial's files, by content hash.
create table hpo.artifact (
    trial_id    integer not null,
    name        text not null,                      -- weights/best.pt, pictures/results.png, ...
    sha256      text not null,
    bytes       bigint not null,
    epoch       integer,                            -- the epoch whose model it shows
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (trial_id, name)
);

-- How far MLflow holds what is here.
create table hpo.mirror (
    trial_id   integer primary key,
    study_id   integer not null,
    run_id     text,
    change     bigint not null default 0,           -- last hpo.epoch.change that is there
    steps      integer not null default 0,          -- how many plain Optuna steps are there
    state      text,                                -- last trial state that is there
    files      boolean not null default false,
    dashboard  boolean not null default false,      -- pictures and note shown in optuna-dashboard
    error      text,                                -- why the last attempt failed
    updated_at timestamptz not null default clock_timestamp()
);
create index mirror_of_study on hpo.mirror (study_id);

create table hpo.mirror_study (
    study_id      integer primary key,
    experiment_id text,
    run_id        text,
    state         text,
    error         text,
    updated_at    timestamptz not null default clock_timestamp()
);

-- Append-only: the truth of what was decided, on what evidence, and which version came before.
create table hpo.promotion (
    promotion_id     uuid primary key,
    study_id         integer not null,
    study_name       text not null,
    decided_at       timestamptz not null default clock_timestamp(),
    outcome          text not null check (outcome in ('promoted', 'kept', 'none')),
    model            text not null,
    alias            text not null,
    trial_number     integer,
    version          integer,                       -- the champion after the decision
    previous_version integer,                       -- the champion before it
    evidence         jsonb not null
);
create index promotion_of_study on hpo.promotion (study_id);
create index promotion_of_model on hpo.promotion (model, decided_at);

create function hpo.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'hpo.promotion is append-only';
end $$;
create trigger promotion_append_only before update or delete or truncate on hpo.promotion
    for each statement execute function hpo.refuse_change();
