-- name: topic_id
INSERT INTO pipeline.topics AS known (topic, topic_id) VALUES (%(topic)s, %(topic_id)s)
ON CONFLICT (topic) DO UPDATE SET topic_id = known.topic_id
RETURNING topic_id

-- name: lock_shard
-- Locks the row until the end of the transaction.
INSERT INTO pipeline.positions AS shards (topic, shard) VALUES (%(topic)s, %(shard)s)
ON CONFLICT (topic, shard) DO UPDATE SET claimed_end = shards.claimed_end
RETURNING claimed_end

-- name: open_batch
SELECT start_offset, end_offset FROM pipeline.batches
WHERE topic = %(topic)s AND shard = %(shard)s AND mode = 'live' AND committed_at IS NULL
ORDER BY start_offset LIMIT 1

-- name: position
SELECT committed_end FROM pipeline.positions WHERE topic = %(topic)s AND shard = %(shard)s

-- name: claim
-- A batch that is claimed again gets a new epoch; a range that is ingested again becomes open again.
INSERT INTO pipeline.batches AS batches (topic, shard, start_offset, end_offset, mode, epoch)
VALUES (%(topic)s, %(shard)s, %(start)s, %(end)s, %(mode)s, 1)
ON CONFLICT (topic, shard, mode, start_offset, end_offset)
DO UPDATE SET committed_at = NULL, claimed_at = now(), epoch = batches.epoch + 1
RETURNING epoch

-- name: set_claimed_end
UPDATE pipeline.positions SET claimed_end = greatest(claimed_end, %(end)s)
WHERE topic = %(topic)s AND shard = %(shard)s

-- name: shorten_batch
UPDATE pipeline.batches SET end_offset = %(new_end)s
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s
  AND epoch = %(epoch)s AND staged_at IS NULL

-- name: drop_unstaged
DELETE FROM pipeline.batches
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s
  AND epoch = %(epoch)s AND staged_at IS NULL

-- name: lower_claimed_end
UPDATE pipeline.positions SET claimed_end = %(new_end)s
WHERE topic = %(topic)s AND shard = %(shard)s AND claimed_end = %(end)s

-- name: lock_epoch
-- A later claim waits until the writes of this one are committed.
SELECT epoch FROM pipeline.batches
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s
FOR SHARE

-- name: is_current
SELECT FROM pipeline.batches
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s
  AND epoch = %(epoch)s AND committed_at IS NULL

-- name: needs_settling
-- A range that was given up long ago has nothing more to write.
SELECT batches.mode = 'range' OR batches.epoch > 1 OR EXISTS (
    SELECT FROM pipeline.batches AS others
    WHERE others.topic = batches.topic AND others.shard = batches.shard AND (
        others.mode = 'range' AND (
            others.committed_at >= batches.claimed_at
            OR others.committed_at IS NULL AND others.claimed_at > now() - interval '1 day')
        OR others.mode = 'live' AND others.end_offset = batches.start_offset AND others.epoch > 1)
)
FROM pipeline.batches
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s
  AND epoch = %(epoch)s AND committed_at IS NULL

-- name: read_staged
SELECT staged_epoch, delivered, valid, dropped, dead_letters, warnings FROM pipeline.batches
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s
  AND staged_epoch IS NOT NULL

-- name: recent_counts
-- The latest committed batches that have so many messages together.
SELECT coalesce(sum(delivered), 0), coalesce(sum(delivered - valid), 0)
FROM (
    SELECT delivered, valid, sum(delivered) OVER (ORDER BY start_offset DESC) - delivered AS later
    FROM pipeline.batches
    WHERE topic = %(topic)s AND shard = %(shard)s AND mode = 'live' AND start_offset < %(start)s
      AND committed_at IS NOT NULL
    ORDER BY start_offset DESC LIMIT 1000
) AS recent
WHERE later < %(messages)s

-- name: record_staged
UPDATE pipeline.batches
SET staged_at = now(), staged_epoch = epoch, delivered = %(delivered)s, valid = %(valid)s, dropped = %(dropped)s,
    dead_letters = %(dead_letters)s::jsonb, warnings = %(warnings)s::jsonb
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s
  AND epoch = %(epoch)s

-- name: record_refused
INSERT INTO pipeline.refused_events
    (topic, shard, mode, start_offset, end_offset, event_id, user_id, version, digest, store)
VALUES (%(topic)s, %(shard)s, %(mode)s, %(start)s, %(end)s, %(event_id)s, %(user_id)s, %(version)s, %(digest)s, %(store)s)
ON CONFLICT DO NOTHING

-- name: read_refused
SELECT event_id, user_id, version, digest, store FROM pipeline.refused_events
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s
ORDER BY event_id, digest

-- name: forget_refused
DELETE FROM pipeline.refused_events
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s

-- name: commit
UPDATE pipeline.batches SET committed_at = coalesce(committed_at, now())
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s
  AND epoch = %(epoch)s

-- name: set_committed_end
INSERT INTO pipeline.positions AS shards (topic, shard, claimed_end, committed_end)
VALUES (%(topic)s, %(shard)s, %(end)s, %(end)s)
ON CONFLICT (topic, shard) DO UPDATE SET claimed_end = greatest(shards.claimed_end, excluded.claimed_end),
                                         committed_end = greatest(shards.committed_end, excluded.committed_end)

-- name: delete_open_batches
DELETE FROM pipeline.batches
WHERE topic = %(topic)s AND shard = %(shard)s AND mode = 'live' AND committed_at IS NULL
RETURNING start_offset, end_offset

-- name: record_lost
INSERT INTO pipeline.batches (topic, shard, start_offset, end_offset, mode, committed_at)
VALUES (%(topic)s, %(shard)s, %(start)s, %(end)s, 'lost', now())

-- name: move_position
INSERT INTO pipeline.positions (topic, shard, claimed_end, committed_end)
VALUES (%(topic)s, %(shard)s, %(end)s, %(end)s)
ON CONFLICT (topic, shard) DO UPDATE SET claimed_end = excluded.claimed_end, committed_end = excluded.committed_end

-- name: forget_topic
WITH batches AS (DELETE FROM pipeline.batches WHERE topic = %(topic)s RETURNING 1),
     positions AS (DELETE FROM pipeline.positions WHERE topic = %(topic)s RETURNING 1),
     archived AS (DELETE FROM pipeline.archived_batches WHERE topic = %(topic)s RETURNING 1),
     archived_letters AS (DELETE FROM pipeline.archived_dead_letters WHERE topic = %(topic)s RETURNING 1),
     refused AS (DELETE FROM pipeline.refused_events WHERE topic = %(topic)s RETURNING 1),
     topics AS (DELETE FROM pipeline.topics WHERE topic = %(topic)s RETURNING 1)
SELECT count(*) FROM batches

-- name: release_changed_users
-- Only now that every store has the batch may the precompute see which users it changed.
UPDATE pipeline.changed_users SET seq = nextval('pipeline.marks') WHERE batch_id = %(batch)s AND seq IS NULL
