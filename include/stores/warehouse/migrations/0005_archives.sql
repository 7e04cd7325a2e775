-- Old batches of the ledger, added up by the day (UTC) of their commit.
CREATE TABLE pipeline.archived_batches (
    topic     text NOT NULL,
    shard     integer NOT NULL,
    mode      text NOT NULL,
    day       date NOT NULL,
    batches   bigint NOT NULL,
    delivered bigint NOT NULL,
    valid     bigint NOT NULL,
    dropped   bigint NOT NULL,
    PRIMARY KEY (topic, shard, mode, day)
);
CREATE TABLE pipeline.archived_dead_letters (
    topic    text NOT NULL,
    shard    integer NOT NULL,
    mode     text NOT NULL,
    day      date NOT NULL,
    reason   text NOT NULL,
    messages bigint NOT NULL,
    PRIMARY KEY (topic, shard, mode, day, reason)
);

-- When a batch last needed the vector, to the day; those from before are as old as this column.
ALTER TABLE pipeline.text_vectors ADD COLUMN used_at timestamptz NOT NULL DEFAULT now();
