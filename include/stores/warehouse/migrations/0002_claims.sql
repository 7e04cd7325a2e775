-- The id of each topic when its first batch was claimed: a topic that is recreated under its name has another one.
CREATE TABLE pipeline.topics (
    topic    text PRIMARY KEY,
    topic_id text NOT NULL
);

-- How far each shard has been claimed and committed, so that no claim has to read every batch.
CREATE TABLE pipeline.positions (
    topic         text NOT NULL,
    shard         integer NOT NULL,
    claimed_end   bigint,
    committed_end bigint,
    PRIMARY KEY (topic, shard)
);
INSERT INTO pipeline.positions (topic, shard, claimed_end, committed_end)
SELECT topic, shard, max(end_offset), max(end_offset) FILTER (WHERE committed_at IS NOT NULL)
FROM pipeline.batches WHERE mode = 'live' GROUP BY topic, shard;

-- The number of times a batch was claimed, and the claim that was staged: only the last claim may write and commit.
ALTER TABLE pipeline.batches ADD COLUMN epoch integer NOT NULL DEFAULT 0, ADD COLUMN staged_epoch integer;
UPDATE pipeline.batches SET staged_epoch = 0 WHERE staged_at IS NOT NULL;
CREATE INDEX batches_open ON pipeline.batches (topic, shard, start_offset) WHERE committed_at IS NULL;
