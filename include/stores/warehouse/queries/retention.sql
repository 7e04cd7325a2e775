-- name: count_old_batches
SELECT count(*) FROM pipeline.batches AS batches
WHERE committed_at < now() - make_interval(days => %(days)s) AND NOT EXISTS (
    SELECT FROM pipeline.positions AS positions
    WHERE positions.topic = batches.topic AND positions.shard = batches.shard
      AND positions.committed_end = batches.end_offset AND batches.mode <> 'range'
)

-- name: archive_batches
-- Never the last batch of a shard. In one statement, so that no batch is counted twice or in neither table.
WITH old AS (
    DELETE FROM pipeline.batches WHERE ctid = ANY (ARRAY(
        SELECT batches.ctid FROM pipeline.batches AS batches
        WHERE committed_at < now() - make_interval(days => %(days)s) AND NOT EXISTS (
            SELECT FROM pipeline.positions AS positions
            WHERE positions.topic = batches.topic AND positions.shard = batches.shard
              AND positions.committed_end = batches.end_offset AND batches.mode <> 'range'
        )
        LIMIT %(limit)s
    ))
    AND committed_at IS NOT NULL
    RETURNING topic, shard, mode, (committed_at AT TIME ZONE 'UTC')::date AS day, delivered, valid, dropped, dead_letters
), archived AS (
    INSERT INTO pipeline.archived_batches AS archive (topic, shard, mode, day, batches, delivered, valid, dropped)
    SELECT topic, shard, mode, day, count(*), sum(delivered), sum(valid), sum(dropped) FROM old GROUP BY 1, 2, 3, 4
    ON CONFLICT (topic, shard, mode, day) DO UPDATE
    SET batches = archive.batches + excluded.batches, delivered = archive.delivered + excluded.delivered,
        valid = archive.valid + excluded.valid, dropped = archive.dropped + excluded.dropped
), archived_letters AS (
    INSERT INTO pipeline.archived_dead_letters AS archive (topic, shard, mode, day, reason, messages)
    SELECT topic, shard, mode, day, key, sum(value::bigint) FROM old, jsonb_each_text(dead_letters)
    GROUP BY 1, 2, 3, 4, 5
    ON CONFLICT (topic, shard, mode, day, reason) DO UPDATE SET messages = archive.messages + excluded.messages
)
SELECT count(*) FROM old

-- name: abandoned_ranges
SELECT topic, shard, start_offset, end_offset FROM pipeline.batches
WHERE mode = 'range' AND committed_at IS NULL AND claimed_at < now() - make_interval(days => %(days)s)
ORDER BY topic, shard, start_offset

-- name: drop_range
DELETE FROM pipeline.batches
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = 'range'
  AND committed_at IS NULL AND claimed_at < now() - make_interval(days => %(days)s)

-- name: count_unused_vectors
SELECT count(*) FROM pipeline.text_vectors AS vectors
WHERE used_at < now() - make_interval(days => %(days)s)
  AND NOT EXISTS (SELECT FROM events WHERE events.text_hash = vectors.text_hash)

-- name: delete_unused_vectors
WITH deleted AS (
    DELETE FROM pipeline.text_vectors WHERE ctid = ANY (ARRAY(
        SELECT vectors.ctid FROM pipeline.text_vectors AS vectors
        WHERE used_at < now() - make_interval(days => %(days)s)
          AND NOT EXISTS (SELECT FROM events WHERE events.text_hash = vectors.text_hash)
        LIMIT %(limit)s
    ))
    -- A batch that has read the vector meanwhile has made it younger.
    AND used_at < now() - make_interval(days => %(days)s)
    RETURNING 1
)
SELECT count(*) FROM deleted

-- name: open_batch_ids
SELECT topic, shard, start_offset, end_offset, mode FROM pipeline.batches WHERE committed_at IS NULL
