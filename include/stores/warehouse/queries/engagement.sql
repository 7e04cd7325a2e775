-- name: touched_hours
SELECT hour, seq FROM pipeline.touched_hours ORDER BY hour

-- name: clear_hours
DELETE FROM pipeline.touched_hours AS hours
USING unnest(%(keys)s::timestamptz[], %(seqs)s::bigint[]) AS done(hour, seq)
WHERE hours.hour = done.hour AND hours.seq = done.seq

-- name: lock_engagement
SELECT pg_advisory_xact_lock(hashtextextended('millrace engagement', 0))

-- name: delete_hours
DELETE FROM engagement_hourly WHERE hour = ANY(%(hours)s::timestamptz[])

-- name: recount_hours
INSERT INTO engagement_hourly (hour, item_id, campaign_id, kind, events, users, value)
SELECT hour, item_id, campaign_id, kind, sum(events), sum(users), sum(value)
FROM (
    SELECT hour, coalesce(item_id, '') AS item_id, coalesce(campaign_id, '') AS campaign_id, kind, count(*) AS events,
           count(DISTINCT user_id) AS users, coalesce(sum(value::numeric), 0) AS value
    FROM events WHERE hour = ANY(%(hours)s::timestamptz[]) GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT hour, item_id, campaign_id, kind, events, users, value
    FROM pipeline.archived_engagement WHERE hour = ANY(%(hours)s::timestamptz[])
) AS counted
GROUP BY 1, 2, 3, 4

-- name: hours_between
-- Hours with events, and hours whose rows come from events that have since moved to another hour.
SELECT hour FROM events WHERE hour >= %(start)s AND hour < %(end)s
UNION SELECT hour FROM engagement_hourly WHERE hour >= %(start)s AND hour < %(end)s
UNION SELECT hour FROM pipeline.archived_engagement WHERE hour >= %(start)s AND hour < %(end)s

-- name: popular
-- Sum of events * kind weight * 0.5 ** (age / half-life); a negative age counts as zero, and a very high one is bounded.
SELECT item_id, sum(events * coalesce(weight, %(default)s) * power(0.5::float8, least(%(max_half_lives)s, greatest(0,
           extract(epoch FROM %(as_of)s::timestamptz - hour)::float8) / (%(half_life)s * 86400.0)))) AS score
FROM engagement_hourly
LEFT JOIN unnest(%(kinds)s::text[], %(weights)s::float8[]) AS weights(kind, weight) USING (kind)
WHERE item_id <> ''
GROUP BY item_id
HAVING sum(events * coalesce(weight, %(default)s)) > 0
ORDER BY score DESC, item_id
LIMIT %(limit)s
