-- The tables. Ids sort by bytes, whatever the collation of the database.
CREATE SCHEMA IF NOT EXISTS pipeline;
CREATE SEQUENCE IF NOT EXISTS pipeline.marks;
CREATE TABLE IF NOT EXISTS pipeline.schema_version (version integer NOT NULL);

-- Every valid event, one row per event. first_batch never changes: duplicates are counted with it.
CREATE TABLE IF NOT EXISTS events (
    user_id     text COLLATE "C" NOT NULL,
    message_id  text COLLATE "C" NOT NULL,
    event_id    text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    occurred_at timestamptz NOT NULL,
    hour        timestamptz NOT NULL,
    text        text,
    text_hash   text COLLATE "C",
    item_id     text COLLATE "C",
    campaign_id text COLLATE "C",
    value       double precision,
    version     bigint NOT NULL,
    digest      text COLLATE "C" NOT NULL,
    extra       jsonb,
    first_batch text COLLATE "C" NOT NULL,
    revised     boolean NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, message_id)
);
CREATE INDEX IF NOT EXISTS events_hour ON events (hour);
-- The newest title of an item: messages that users wrote about it come last.
CREATE INDEX IF NOT EXISTS events_item_text ON events (item_id, (kind = 'message'), occurred_at DESC)
    WHERE item_id IS NOT NULL AND text IS NOT NULL;

-- Absent items and campaigns are ''.
CREATE TABLE IF NOT EXISTS engagement_hourly (
    hour        timestamptz NOT NULL,
    item_id     text COLLATE "C" NOT NULL,
    campaign_id text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    events      bigint NOT NULL,
    users       bigint NOT NULL,
    value       numeric NOT NULL,
    PRIMARY KEY (hour, item_id, campaign_id, kind)
);

-- The ledger: which offsets were claimed, what they contained, whether every store has them.
CREATE TABLE IF NOT EXISTS pipeline.batches (
    topic        text NOT NULL,
    shard        integer NOT NULL,
    start_offset bigint NOT NULL,
    end_offset   bigint NOT NULL,
    mode         text NOT NULL,
    claimed_at   timestamptz NOT NULL DEFAULT now(),
    staged_at    timestamptz,
    committed_at timestamptz,
    delivered    bigint NOT NULL DEFAULT 0,
    valid        bigint NOT NULL DEFAULT 0,
    dropped      bigint NOT NULL DEFAULT 0,
    dead_letters jsonb NOT NULL DEFAULT '{}',
    warnings     jsonb NOT NULL DEFAULT '[]',
    PRIMARY KEY (topic, shard, mode, start_offset, end_offset)
);

-- The vector of a text, little-endian float32, by generation: each text is embedded only once.
CREATE TABLE IF NOT EXISTS pipeline.text_vectors (
    generation text COLLATE "C" NOT NULL,
    text_hash  text COLLATE "C" NOT NULL,
    vector     bytea NOT NULL,
    PRIMARY KEY (generation, text_hash)
);

-- The vector that profiles are centred on, and the number of texts when it was computed.
CREATE TABLE IF NOT EXISTS pipeline.text_centres (
    generation text PRIMARY KEY,
    texts      bigint NOT NULL,
    centre     bytea NOT NULL
);

-- Hours whose engagement must be recounted.
CREATE TABLE IF NOT EXISTS pipeline.touched_hours (
    hour timestamptz PRIMARY KEY,
    seq  bigint NOT NULL
);

-- Users whose list must be rebuilt; seq is null until the batch is in every store.
CREATE TABLE IF NOT EXISTS pipeline.changed_users (
    batch_id text COLLATE "C" NOT NULL,
    user_id  text COLLATE "C" NOT NULL,
    seq      bigint,
    PRIMARY KEY (batch_id, user_id)
);
