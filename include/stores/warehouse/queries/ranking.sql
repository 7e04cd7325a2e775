-- name: count_engagements
SELECT count(*) FROM events WHERE item_id IS NOT NULL

-- name: scan_engagements
SELECT user_id, item_id, kind, (extract(epoch FROM occurred_at) * 1000)::bigint FROM events WHERE item_id IS NOT NULL

-- name: summarise_items
-- Each user counts once per item, from the first engagement on. Ages are bounded, because a power may not underflow.
WITH weighted AS (
    SELECT user_id, item_id, occurred_at, coalesce(weight, %(default)s) AS weight
    FROM events LEFT JOIN unnest(%(kinds)s::text[], %(weights)s::float8[]) AS weights(kind, weight) USING (kind)
    WHERE item_id IS NOT NULL
), pairs AS (
    SELECT item_id, min(occurred_at) AS first_at, max(weight) AS weight
    FROM weighted WHERE weight > 0 GROUP BY user_id, item_id
), aged AS (
    SELECT item_id, first_at, weight,
           greatest(0, extract(epoch FROM %(as_of)s::timestamptz - first_at)::float8 / 86400.0) AS days
    FROM pairs
)
SELECT item_id, first_ms, array_agg(score ORDER BY number)
FROM (
    SELECT item_id, number, (extract(epoch FROM min(first_at)) * 1000)::bigint AS first_ms,
           sum(weight * power(0.5::float8, least(%(max_half_lives)s, days / half_life))) AS score
    FROM aged CROSS JOIN unnest(%(half_lives)s::float8[]) WITH ORDINALITY AS half_lives(half_life, number)
    GROUP BY item_id, number
) AS scored
GROUP BY item_id, first_ms ORDER BY item_id

-- name: add_model
INSERT INTO pipeline.ranking_models
    (version, trained_at, as_of, users, items, events, ndcg, short_ndcg, settings, card)
VALUES (%(version)s, %(trained_at)s, %(as_of)s, %(users)s, %(items)s, %(events)s, %(ndcg)s, %(short_ndcg)s,
        %(settings)s, %(card)s)
ON CONFLICT (version) DO UPDATE SET trained_at = excluded.trained_at

-- name: promote_model
-- Later than every other promotion, whatever the clocks say.
UPDATE pipeline.ranking_models
SET promoted_at = greatest(%(now)s::timestamptz,
    (SELECT max(promoted_at) + interval '1 millisecond' FROM pipeline.ranking_models))
WHERE version = %(version)s RETURNING version

-- name: models
SELECT version, (extract(epoch FROM trained_at) * 1000)::bigint, (extract(epoch FROM as_of) * 1000)::bigint, users,
       items, events, ndcg, short_ndcg, settings::text, card, (extract(epoch FROM promoted_at) * 1000)::bigint
FROM pipeline.ranking_models ORDER BY trained_at DESC, version

-- name: current_model
SELECT version, (extract(epoch FROM trained_at) * 1000)::bigint, (extract(epoch FROM as_of) * 1000)::bigint, users,
       items, events, ndcg, short_ndcg, settings::text, card, (extract(epoch FROM promoted_at) * 1000)::bigint
FROM pipeline.ranking_models WHERE promoted_at IS NOT NULL ORDER BY promoted_at DESC LIMIT 1

-- name: drop_model
DELETE FROM pipeline.ranking_models WHERE version = %(version)s
