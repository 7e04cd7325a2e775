-- name: create_incoming
-- The rows of one batch; dropped at the end of the transaction.
CREATE TEMP TABLE incoming (
    user_id text COLLATE "C", message_id text COLLATE "C", event_id text, kind text, occurred_at timestamptz,
    text text, text_hash text, item_id text, campaign_id text, value double precision, version bigint,
    digest text COLLATE "C", extra json, published_at bigint, replaces boolean
) ON COMMIT DROP

-- name: upsert_events
-- Store new and newer revisions (the higher (version, digest) wins: include/domain/precedence.py), and mark the hours
-- and users that they change: both hours of a corrected event. A row that has met another content, whichever of them
-- wins, is marked as revised: a store may have the losing one, and a replay removes it only from revised events.
-- published_on is the day of the newest message with the event; null, which greatest() ignores, where it is unknown.
WITH upserted AS (
    INSERT INTO events AS existing (user_id, message_id, event_id, kind, occurred_at, hour, text, text_hash,
                                    item_id, campaign_id, value, version, digest, extra, published_on, first_batch,
                                    revised)
    SELECT user_id, message_id, event_id, kind, occurred_at, date_trunc('hour', occurred_at, 'UTC'), text, text_hash,
           item_id, campaign_id, value, version, digest, extra,
           CASE WHEN published_at > 0 THEN (to_timestamp(published_at / 1000) AT TIME ZONE 'UTC')::date END, %(batch)s,
           replaces
    FROM incoming
    ORDER BY user_id, message_id
    ON CONFLICT (user_id, message_id) DO UPDATE SET
        (kind, occurred_at, hour, text, text_hash, item_id, campaign_id, value, version, digest, extra) = (
            SELECT kind, occurred_at, hour, text, text_hash, item_id, campaign_id, value, version, digest, extra
            FROM (SELECT (CASE WHEN (excluded.version, excluded.digest) > (existing.version, existing.digest)
                               THEN excluded ELSE existing END).*) AS winner
        ),
        published_on = greatest(existing.published_on, excluded.published_on),
        revised = existing.revised OR excluded.revised
                  OR (excluded.version, excluded.digest) <> (existing.version, existing.digest)
    WHERE (excluded.version, excluded.digest) > (existing.version, existing.digest)
       OR (NOT existing.revised
           AND (excluded.revised OR (excluded.version, excluded.digest) < (existing.version, existing.digest)))
       OR excluded.published_on > coalesce(existing.published_on, '-infinity')
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

-- name: delete_events
-- Unless a newer revision is stored. Marks the hours and users, visible at once: no batch has to commit first.
WITH deleted AS (
    DELETE FROM events AS stored
    USING unnest(%(event_id)s::text[], %(user_id)s::text[], %(version)s::bigint[], %(digest)s::text[])
          AS rows(event_id, user_id, version, digest)
    WHERE stored.user_id = rows.user_id AND stored.event_id = rows.event_id
      AND (stored.version, stored.digest) <= (rows.version, rows.digest COLLATE "C")
    RETURNING stored.hour, stored.user_id
), touched AS (
    INSERT INTO pipeline.touched_hours (hour, seq)
    SELECT hour, nextval('pipeline.marks') FROM (SELECT DISTINCT hour FROM deleted ORDER BY hour) AS hours
    ON CONFLICT (hour) DO UPDATE SET seq = excluded.seq
), changed AS (
    INSERT INTO pipeline.changed_users (batch_id, user_id, seq)
    SELECT 'deleted', user_id, nextval('pipeline.marks')
    FROM (SELECT DISTINCT user_id FROM deleted ORDER BY user_id) AS users
    ON CONFLICT (batch_id, user_id) DO UPDATE SET seq = excluded.seq
)
SELECT count(*) FROM deleted
