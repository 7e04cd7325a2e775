-- The latest publish time of any message of the event; null is unknown (stored by an older version), and never expires.
-- BRIN: rows come nearly in this order, and such an index costs an insert almost nothing.
ALTER TABLE events ADD COLUMN published_at timestamptz;
CREATE INDEX events_published ON events USING brin (published_at);

-- Messages published before the cut are not ingested any more. Batches claimed before set_at may not know the cut yet.
CREATE TABLE pipeline.retention (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    cut      timestamptz NOT NULL,
    set_at   timestamptz
);

-- The engagement of events that were deleted because of their age: a recount of an hour adds it.
CREATE TABLE engagement_archive (
    hour        timestamptz NOT NULL,
    item_id     text COLLATE "C" NOT NULL,
    campaign_id text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    events      bigint NOT NULL,
    users       bigint NOT NULL,
    value       numeric NOT NULL,
    PRIMARY KEY (hour, item_id, campaign_id, kind)
);

-- Valid events that were not stored because they were published before the cut; part of dropped.
ALTER TABLE pipeline.batches ADD COLUMN expired bigint NOT NULL DEFAULT 0;

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
    expired   bigint NOT NULL,
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

-- When a vector was stored; those from before are as old as this column.
ALTER TABLE pipeline.text_vectors ADD COLUMN stored_at timestamptz NOT NULL DEFAULT now();
