-- name: totals
SELECT coalesce(sum(delivered), 0), coalesce(sum(valid), 0), coalesce(sum(batches), 0) FROM (
    SELECT delivered, valid, 1 AS batches FROM pipeline.batches
    WHERE topic = %(topic)s AND mode = 'live' AND committed_at IS NOT NULL
    UNION ALL
    SELECT delivered, valid, batches FROM pipeline.archived_batches WHERE topic = %(topic)s AND mode = 'live'
) AS counted

-- name: dead_letter_totals
SELECT reason, sum(messages) FROM (
    SELECT key AS reason, value::bigint AS messages FROM pipeline.batches, jsonb_each_text(dead_letters)
    WHERE topic = %(topic)s AND mode = 'live' AND committed_at IS NOT NULL
    UNION ALL
    SELECT reason, messages FROM pipeline.archived_dead_letters WHERE topic = %(topic)s AND mode = 'live'
) AS counted
GROUP BY reason ORDER BY reason

-- name: warnings
SELECT shard, start_offset, end_offset, warnings FROM pipeline.batches
WHERE topic = %(topic)s AND jsonb_array_length(warnings) > 0 ORDER BY shard, start_offset

-- name: event_count
SELECT count(*) FROM events

-- name: aggregate_difference
-- Rows that differ between the table and a recount of every stored event, and of the archive of deleted ones.
WITH recount AS (
    SELECT hour, item_id, campaign_id, kind, sum(events) AS events, sum(users) AS users, sum(value) AS value
    FROM (
        SELECT date_trunc('hour', occurred_at, 'UTC') AS hour, coalesce(item_id, '') AS item_id,
               coalesce(campaign_id, '') AS campaign_id, kind, count(*) AS events, count(DISTINCT user_id) AS users,
               coalesce(sum(value::numeric), 0) AS value
        FROM events GROUP BY 1, 2, 3, 4
        UNION ALL
        SELECT hour, item_id, campaign_id, kind, events, users, value FROM pipeline.archived_engagement
    ) AS counted
    GROUP BY 1, 2, 3, 4
)
SELECT count(*) FROM (
    (SELECT * FROM recount EXCEPT SELECT * FROM engagement_hourly)
    UNION ALL
    (SELECT * FROM engagement_hourly EXCEPT SELECT * FROM recount)
) AS different
