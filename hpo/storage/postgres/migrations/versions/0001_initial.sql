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
    created_at          timestamptz not null default hpo.now(),
    first_claim_at      timestamptz,                -- the timeout counts from here
    -- its name in the artifact store, which several databases may share
    uid                 uuid not null default gen_random_uuid(),
    parent_id           integer,                    -- of finals: the study that they look at again
    test_fingerprint    text,                       -- of the test split; null where none was known
    -- null where the trainer's own code holds the model, and in studies of an earlier version
    model_sha256        text
);
create unique index finals_of_study on hpo.study (parent_id) where parent_id is not null;

create table hpo.worker (
    worker_id   bigint generated always as identity primary key,
    study_id    integer not null,
    host        text not null,
    pid         integer not null,
    device      text not null,
    slot        text,                               -- outlives a restart of a Ray actor
    started_at  timestamptz not null default hpo.now(),
    seen_at     timestamptz not null default hpo.now(),
    expires_at  timestamptz not null default hpo.now(),  -- taken for gone after this
    ended_at    timestamptz,
    ended_why   text,
    warning     text,                               -- what people should know while it lives
    -- Python, packages, processor and GPU: what `hpo reproduce` compares
    environment jsonb
);
create index worker_of_study on hpo.worker (study_id);

-- One row a claimed trial, kept after its end: who ran it last, and what it was told under.
create table hpo.lease (
    trial_id   integer primary key,
    study_id   integer not null,
    worker_id  bigint not null,
    token      uuid not null unique,
    claimed_at timestamptz not null default hpo.now(),
    expires_at timestamptz not null,
    takeovers  integer not null default 0,
    told_at    timestamptz,                         -- null until the trial ended under this lease
    told_state text check (told_state in ('COMPLETE', 'PRUNED', 'FAIL')),
    value      double precision,                    -- of the best recorded epoch
    best_epoch integer,
    reason     text,                                -- why a FAIL
    deaths     integer not null default 0,          -- silent ends since the last new epoch
    released   boolean not null default false,      -- given back, not silent
    cleared    boolean not null default false       -- after its end, its checkpoints are gone
);
create index lease_of_study on hpo.lease (study_id);
create index lease_held on hpo.lease (study_id, expires_at) where told_at is null;

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

create sequence hpo.change;

create table hpo.epoch (
    trial_id    integer not null,
    epoch       integer not null check (epoch > 0), -- counted from 1
    metrics     jsonb not null,                     -- every metric; null stands for NaN
    recorded_at timestamptz not null default hpo.now(),
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
    recorded_at timestamptz not null default hpo.now(),
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
    updated_at timestamptz not null default hpo.now()
);
create index mirror_of_study on hpo.mirror (study_id);

create table hpo.mirror_study (
    study_id      integer primary key,
    experiment_id text,
    run_id        text,
    state         text,
    error         text,
    updated_at    timestamptz not null default hpo.now()
);

-- Append-only: the truth of what was decided, on what evidence, and which version came before.
create table hpo.promotion (
    promotion_id     uuid primary key,
    study_id         integer not null,
    study_name       text not null,
    decided_at       timestamptz not null default hpo.now(),
    outcome          text not null
        check (outcome in ('promoted', 'kept', 'inconclusive', 'none', 'rolled_back')),
    model            text not null,
    alias            text not null,
    trial_number     integer,
    version          integer,                       -- the champion after the decision
    previous_version integer,                       -- the champion before it
    evidence         jsonb not null,
    seq              bigint generated always as identity,  -- the order; clocks are not asked
    override         boolean not null default false,  -- by a person, past the gate
    why              text,                          -- what that person said
    actor            text                           -- user@host
);
create index promotion_of_study on hpo.promotion (study_id);
create index promotion_of_model on hpo.promotion (model, decided_at);
create unique index promotion_order on hpo.promotion (seq);
create trigger promotion_append_only before update or delete or truncate on hpo.promotion
    for each statement execute function hpo.refuse_change();

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

-- Datasets packed into the artifact store, so that machines which lack them can fetch them.
create table hpo.dataset (
    fingerprint text primary key,                   -- of its content, as in hpo.study
    sha256      text not null,                      -- of its archive, which is named by it in the store
    bytes       bigint not null check (bytes > 0),  -- of the archive
    images      jsonb not null,                     -- split -> how many
    keys        jsonb not null,                     -- what its data YAML says beside places and classes
    pushed_at   timestamptz not null default hpo.now(),
    pushed_by   text not null                       -- user@host
);
