-- name: clock
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint

-- name: newest_event
SELECT max(occurred_at) FROM events WHERE hour = (SELECT max(hour) FROM events)

-- name: changed_users
SELECT user_id, seq FROM pipeline.changed_users WHERE seq IS NOT NULL ORDER BY user_id, seq

-- name: clear_changed_users
DELETE FROM pipeline.changed_users AS users
USING unnest(%(keys)s::text[], %(seqs)s::bigint[]) AS done(user_id, seq)
WHERE users.user_id = done.user_id AND users.seq = done.seq

-- name: active_users
SELECT DISTINCT user_id FROM events WHERE hour >= %(since)s ORDER BY user_id

-- name: known_users
-- One look-up per user in the primary key, however many events a user has.
SELECT requested.user_id
FROM unnest(%(users)s::text[]) WITH ORDINALITY AS requested(user_id, position)
CROSS JOIN LATERAL (SELECT FROM events WHERE events.user_id = requested.user_id LIMIT 1) AS stored
ORDER BY position

-- name: count_user_texts
SELECT user_id, text_hash, count(*) FROM events
WHERE user_id = ANY(%(users)s) AND text_hash IS NOT NULL
GROUP BY user_id, text_hash ORDER BY user_id, text_hash

-- name: item_texts
-- Messages come last in the index: an item whose first row is one has no title.
SELECT items.item_id, newest.text
FROM unnest(%(items)s::text[]) AS items(item_id)
CROSS JOIN LATERAL (
    SELECT text, kind FROM events
    WHERE events.item_id = items.item_id AND events.item_id IS NOT NULL AND text IS NOT NULL
    ORDER BY events.item_id, (kind = 'message'), occurred_at DESC, event_id LIMIT 1
) AS newest
WHERE newest.kind <> 'message'

-- name: centre
SELECT texts, centre FROM pipeline.text_centres WHERE generation = %(generation)s

-- name: count_texts
SELECT count(*) FROM pipeline.text_vectors WHERE generation = %(generation)s

-- name: sample_vectors
-- The hash is as good as a random number: the first rows are a random sample, the same in every run.
SELECT vector FROM pipeline.text_vectors WHERE generation = %(generation)s ORDER BY text_hash LIMIT %(limit)s

-- name: set_centre
INSERT INTO pipeline.text_centres (generation, texts, centre) VALUES (%(generation)s, %(texts)s, %(centre)s)
ON CONFLICT (generation) DO UPDATE SET texts = excluded.texts, centre = excluded.centre

-- name: mark_next_users
-- The next users in order, each found by one look-up in the primary key. Returns the last one, null after the end.
WITH RECURSIVE users (user_id, number) AS (
    (SELECT user_id, 1 FROM events WHERE user_id > %(after)s ORDER BY user_id LIMIT 1)
    UNION ALL
    SELECT (SELECT events.user_id FROM events WHERE events.user_id > users.user_id ORDER BY events.user_id LIMIT 1),
           number + 1
    FROM users WHERE user_id IS NOT NULL AND number < %(limit)s
), marked AS (
    INSERT INTO pipeline.changed_users (batch_id, user_id, seq)
    SELECT %(batch)s, user_id, nextval('pipeline.marks') FROM users WHERE user_id IS NOT NULL
    ON CONFLICT (batch_id, user_id) DO UPDATE SET seq = excluded.seq
)
SELECT max(user_id) FROM users
