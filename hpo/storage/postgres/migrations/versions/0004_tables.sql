-- Datasets that were packed into the artifact store, so that machines which lack them can fetch them.

create table hpo.dataset (
    fingerprint text primary key,                   -- of its content, as in hpo.study
    sha256      text not null,                      -- of its archive, which is named by it in the store
    bytes       bigint not null check (bytes > 0),  -- of the archive
    images      jsonb not null,                     -- split -> how many
    keys        jsonb not null,                     -- what its data YAML says beside places and classes
    pushed_at   timestamptz not null default hpo.now(),
    pushed_by   text not null                       -- user@host
);
