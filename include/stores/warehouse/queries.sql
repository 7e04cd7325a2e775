-- name: lock_schema
SELECT pg_advisory_lock(hashtextextended('millrace schema', 0))

-- name: unlock_schema
SELECT pg_advisory_unlock(hashtextextended('millrace schema', 0))

-- name: find_schema
SELECT to_regclass('pipeline.schema_version')

-- name: schema_version
SELECT coalesce(max(version), 0) FROM pipeline.schema_version

-- name: record_migration
INSERT INTO pipeline.schema_version (version) VALUES (%(version)s)

-- name: create_incoming
-- The rows of one batch; dropped at the end of the transaction.
CREATE TEMP TABLE incoming (
    user_id text COLLATE "C", message_id text COLLATE "C", event_id text, kind text, occurred_at timestamptz,
    text text, text_hash text, item_id text, campaign_id text, value double precision, version bigint,
    digest text COLLATE "C", extra json, replaces boolean
) ON COMMIT DROP

-- name: upsert_events
-- Store new and newer revisions (the higher (version, digest) wins: include/domain/precedence.py), and mark the hours
-- and users that they change: both hours of a corrected event. A row that has met another content, whichever of them
-- wins, is marked as revised: a store may have the losing one, and a replay removes it only from revised events.
WITH upserted AS (
    INSERT INTO events AS existing (user_id, message_id, event_id, kind, occurred_at, hour, text, text_hash,
                                    item_id, campaign_id, value, version, digest, extra, first_batch, revised)
    SELECT user_id, message_id, event_id, kind, occurred_at, date_trunc('hour', occurred_at, 'UTC'), text, text_hash,
           item_id, campaign_id, value, version, digest, extra, %(batch)s, replaces
    FROM incoming
    ORDER BY user_id, message_id
    ON CONFLICT (user_id, message_id) DO UPDATE SET
        (kind, occurred_at, hour, text, text_hash, item_id, campaign_id, value, version, digest, extra, revised) = (
            SELECT kind, occurred_at, hour, text, text_hash, item_id, campaign_id, value, version, digest, extra, true
            FROM (SELECT (CASE WHEN (excluded.version, excluded.digest) > (existing.version, existing.digest)
                               THEN excluded ELSE existing END).*) AS winner
        )
    WHERE (excluded.version, excluded.digest) > (existing.version, existing.digest)
       OR (NOT existing.revised
           AND (excluded.revised OR (excluded.version, excluded.digest) < (existing.version, existing.digest)))
    RETURNING old.hour AS old_hour, new.hour AS new_hour, new.user_id AS user_id,
              (old.version, old.digest) IS DISTINCT FROM (new.version, new.digest) AS is_stored
), stored AS (
    SELECT old_hour, new_hour, user_id FROM upserted WHERE is_stored
), hours AS (
    SELECT new_hour AS hour FROM stored UNION SELECT old_hour FROM stored WHERE old_hour IS NOT NULL
), touched AS (
    INSERT INTO pipeline.touched_hours (hour, seq)
    SELECT hour, nextval('pipeline.marks') FROM hours ORDER BY hour
    ON CONFLICT (hour) DO UPDATE SET seq = excluded.seq
), changed AS (
    INSERT INTO pipeline.changed_users (batch_id, user_id)
    SELECT DISTINCT %(batch)s, user_id FROM stored ORDER BY 2
    ON CONFLICT (batch_id, user_id) DO UPDATE SET seq = NULL
)
SELECT count(*) FROM stored

-- name: share_unreleased_users
-- Another batch may have stored an event of this one first. If its run dies before its commit, this one's must show that
-- the user changed. A statement of its own: upsert_events may have waited for that run, and cannot see its marks.
INSERT INTO pipeline.changed_users (batch_id, user_id)
SELECT DISTINCT %(batch)s, user_id FROM incoming
WHERE EXISTS (
    SELECT FROM pipeline.changed_users AS unreleased
    WHERE unreleased.user_id = incoming.user_id AND unreleased.seq IS NULL AND unreleased.batch_id <> %(batch)s
)
ORDER BY 2
ON CONFLICT (batch_id, user_id) DO UPDATE SET seq = NULL

-- name: create_identities
CREATE TEMP TABLE identities (
    row integer, user_id text COLLATE "C", message_id text COLLATE "C"
) ON COMMIT DROP

-- name: stored_versions
-- What is stored for each identity of a batch.
SELECT identities.row, stored.version, stored.digest, stored.revised
FROM identities JOIN events AS stored USING (user_id, message_id)

-- name: stored_contents
-- The times are ms since 1970.
SELECT row, event_id, user_id, message_id, kind, (extract(epoch FROM occurred_at) * 1000)::bigint, text, item_id,
       campaign_id, value, version, digest, extra::text, text_hash
FROM identities JOIN events AS stored USING (user_id, message_id)
ORDER BY row

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

-- name: lower_claimed_end
UPDATE pipeline.positions SET claimed_end = %(new_end)s
WHERE topic = %(topic)s AND shard = %(shard)s AND claimed_end = %(end)s

-- name: lock_epoch
-- A later claim waits until the writes of this one are committed.
SELECT epoch FROM pipeline.batches
WHERE topic = %(topic)s AND shard = %(shard)s AND start_offset = %(start)s AND end_offset = %(end)s AND mode = %(mode)s
FOR SHARE

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
     topics AS (DELETE FROM pipeline.topics WHERE topic = %(topic)s RETURNING 1)
SELECT count(*) FROM batches

-- name: release_changed_users
-- Only now that every store has the batch may the precompute see which users it changed.
UPDATE pipeline.changed_users SET seq = nextval('pipeline.marks') WHERE batch_id = %(batch)s AND seq IS NULL

-- name: get_vectors
SELECT text_hash, vector FROM pipeline.text_vectors WHERE generation = %(generation)s AND text_hash = ANY(%(hashes)s)

-- name: put_vector
INSERT INTO pipeline.text_vectors (generation, text_hash, vector) VALUES %s ON CONFLICT DO NOTHING

-- name: lock_texts
SELECT pg_advisory_lock(hashtextextended(%(name)s, 0))

-- name: unlock_texts
SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0))

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
SELECT hour, coalesce(item_id, ''), coalesce(campaign_id, ''), kind, count(*), count(DISTINCT user_id),
       coalesce(sum(value::numeric), 0)
FROM events WHERE hour = ANY(%(hours)s::timestamptz[])
GROUP BY 1, 2, 3, 4

-- name: hours_between
-- Hours with events, and hours whose rows come from events that have since moved to another hour.
SELECT hour FROM events WHERE hour >= %(start)s AND hour < %(end)s
UNION SELECT hour FROM engagement_hourly WHERE hour >= %(start)s AND hour < %(end)s

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

-- name: totals
SELECT coalesce(sum(delivered), 0), coalesce(sum(valid), 0), count(*) FROM pipeline.batches
WHERE topic = %(topic)s AND mode = 'live' AND committed_at IS NOT NULL

-- name: dead_letter_totals
SELECT key, sum(value::bigint) FROM pipeline.batches, jsonb_each_text(dead_letters)
WHERE topic = %(topic)s AND mode = 'live' AND committed_at IS NOT NULL GROUP BY key ORDER BY key

-- name: warnings
SELECT shard, start_offset, end_offset, warnings FROM pipeline.batches
WHERE topic = %(topic)s AND jsonb_array_length(warnings) > 0 ORDER BY shard, start_offset

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

-- name: event_count
SELECT count(*) FROM events

-- name: aggregate_difference
-- Rows that differ between the table and a recount of every stored event.
WITH recount AS (
    SELECT date_trunc('hour', occurred_at, 'UTC') AS hour, coalesce(item_id, '') AS item_id,
           coalesce(campaign_id, '') AS campaign_id, kind, count(*) AS events, count(DISTINCT user_id) AS users,
           coalesce(sum(value::numeric), 0) AS value
    FROM events GROUP BY 1, 2, 3, 4
)
SELECT count(*) FROM (
    (SELECT * FROM recount EXCEPT SELECT * FROM engagement_hourly)
    UNION ALL
    (SELECT * FROM engagement_hourly EXCEPT SELECT * FROM recount)
) AS different
