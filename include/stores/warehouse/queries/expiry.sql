-- name: share_claims
-- Waits while events are deleted; held until the batch is claimed.
SELECT pg_advisory_xact_lock_shared(hashtextextended('millrace claims', 0))

-- name: pause_claims
SELECT pg_advisory_lock(hashtextextended('millrace claims', 0))

-- name: resume_claims
SELECT pg_advisory_unlock(hashtextextended('millrace claims', 0))

-- name: count_running_batches
-- A replay that was given up is claimed again, and so learns of the cut, before it writes again.
SELECT count(*) FROM pipeline.batches
WHERE committed_at IS NULL AND (mode <> 'range' OR claimed_at > now() - interval '1 day')

-- name: read_cut
SELECT (extract(epoch FROM day) * 1000)::bigint FROM pipeline.cut

-- name: raise_cut
INSERT INTO pipeline.cut AS stored (day)
VALUES ((now() AT TIME ZONE 'UTC')::date - %(days)s)
ON CONFLICT (only_row) DO UPDATE SET day = greatest(stored.day, excluded.day)

-- name: date_undated_events
UPDATE events SET published_on = (now() AT TIME ZONE 'UTC')::date
WHERE ctid = ANY (ARRAY(SELECT ctid FROM events WHERE published_on IS NULL LIMIT %(limit)s))

-- name: count_expired
SELECT count(*) FROM events WHERE published_on < (now() AT TIME ZONE 'UTC')::date - %(days)s

-- name: expired_events
SELECT event_id, user_id, version, digest FROM events
WHERE published_on < (SELECT day FROM pipeline.cut) LIMIT %(limit)s

-- name: find_expired
SELECT stored.event_id FROM unnest(%(event_id)s::text[], %(user_id)s::text[]) AS keys(event_id, user_id)
JOIN events AS stored ON stored.user_id = keys.user_id AND stored.event_id = keys.event_id
WHERE published_on < (SELECT day FROM pipeline.cut)

-- name: create_expired
CREATE TEMP TABLE expired (
    hour timestamptz, item_id text COLLATE "C", campaign_id text COLLATE "C", kind text COLLATE "C",
    user_id text COLLATE "C", value double precision
) ON COMMIT DROP

-- name: delete_expired
WITH deleted AS (
    DELETE FROM events AS stored
    USING unnest(%(event_id)s::text[], %(user_id)s::text[]) AS keys(event_id, user_id)
    WHERE stored.user_id = keys.user_id AND stored.event_id = keys.event_id
      AND stored.published_on < (SELECT day FROM pipeline.cut)
    RETURNING hour, coalesce(item_id, '') AS item_id, coalesce(campaign_id, '') AS campaign_id, kind, stored.user_id,
              value
)
INSERT INTO expired SELECT * FROM deleted

-- name: archive_engagement
-- A user of whom other events are left in the hour is counted with those.
INSERT INTO pipeline.archived_engagement AS archive (hour, item_id, campaign_id, kind, events, users, value)
SELECT hour, item_id, campaign_id, kind, sum(events), count(*) FILTER (WHERE is_gone), sum(value)
FROM (
    SELECT hour, item_id, campaign_id, kind, count(*) AS events, coalesce(sum(value::numeric), 0) AS value,
           NOT EXISTS (
               SELECT FROM events AS left_over
               WHERE left_over.user_id = expired.user_id AND left_over.hour = expired.hour
                 AND coalesce(left_over.item_id, '') = expired.item_id
                 AND coalesce(left_over.campaign_id, '') = expired.campaign_id AND left_over.kind = expired.kind
           ) AS is_gone
    FROM expired GROUP BY hour, item_id, campaign_id, kind, user_id
) AS by_user
GROUP BY 1, 2, 3, 4
ON CONFLICT (hour, item_id, campaign_id, kind) DO UPDATE
SET events = archive.events + excluded.events, users = archive.users + excluded.users,
    value = archive.value + excluded.value

-- name: mark_users_of_expired
INSERT INTO pipeline.changed_users (batch_id, user_id, seq)
SELECT 'deleted', user_id, nextval('pipeline.marks')
FROM (SELECT DISTINCT user_id FROM expired ORDER BY user_id) AS users
ON CONFLICT (batch_id, user_id) DO UPDATE SET seq = excluded.seq
