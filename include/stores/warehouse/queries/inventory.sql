-- name: scan_events
-- Sorted by the server rather than read from an index, which every insert would have to pay for.
SELECT event_id, user_id, (extract(epoch FROM occurred_at) * 1000)::bigint, version, digest, text IS NOT NULL,
       item_id IS NOT NULL
FROM events WHERE event_id > %(after)s ORDER BY event_id

-- name: read_events
-- One look-up per user in the primary key.
SELECT stored.event_id, stored.user_id, (extract(epoch FROM occurred_at) * 1000)::bigint, version, digest,
       text IS NOT NULL, item_id IS NOT NULL
FROM unnest(%(event_id)s::text[], %(user_id)s::text[]) AS keys(event_id, user_id)
JOIN events AS stored ON stored.user_id = keys.user_id AND stored.event_id = keys.event_id

-- name: scan_contents
SELECT event_id, user_id, message_id, kind, (extract(epoch FROM occurred_at) * 1000)::bigint, text, item_id,
       campaign_id, value, version, digest, extra::text, text_hash
FROM events WHERE event_id > %(after)s ORDER BY event_id

-- name: read_contents
SELECT stored.event_id, stored.user_id, message_id, kind, (extract(epoch FROM occurred_at) * 1000)::bigint, text,
       item_id, campaign_id, value, version, digest, extra::text, text_hash
FROM unnest(%(event_id)s::text[], %(user_id)s::text[]) AS keys(event_id, user_id)
JOIN events AS stored ON stored.user_id = keys.user_id AND stored.event_id = keys.event_id
ORDER BY stored.event_id

-- name: open_batches
-- Batches that some store may have and another not yet.
SELECT shard, start_offset, end_offset, mode, epoch
FROM pipeline.batches WHERE topic = %(topic)s AND committed_at IS NULL ORDER BY shard, start_offset, end_offset, mode

-- name: mark_changed
-- Shown to the precompute when the batch commits.
INSERT INTO pipeline.changed_users (batch_id, user_id)
SELECT DISTINCT %(batch)s, unnest(%(users)s::text[]) ORDER BY 2
ON CONFLICT (batch_id, user_id) DO UPDATE SET seq = NULL
