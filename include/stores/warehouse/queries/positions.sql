-- name: find_positions
SELECT to_regclass('pipeline.positions')

-- name: positions
SELECT shard, committed_end FROM pipeline.positions
WHERE topic = %(topic)s AND committed_end IS NOT NULL ORDER BY shard

-- name: last_batches
SELECT DISTINCT ON (shard) shard, start_offset, end_offset, mode, claimed_at, committed_at, delivered
FROM pipeline.batches WHERE topic = %(topic)s ORDER BY shard, claimed_at DESC, start_offset DESC

-- name: pending
SELECT (SELECT count(*) FROM pipeline.touched_hours), (SELECT count(DISTINCT user_id) FROM pipeline.changed_users)
