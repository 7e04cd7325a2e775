-- The day (UTC) of the newest message with the event. Unknown, until `maintain` sets today's, for events from before.
ALTER TABLE events ADD COLUMN published_on date;
CREATE INDEX events_published_on ON events USING brin (published_on);

-- One row: events published before this day are deleted, and never ingested again.
CREATE TABLE pipeline.cut (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    day      date NOT NULL
);

-- What deleted events add to the engagement of their hour. A user counts here once none of their events is left there.
CREATE TABLE pipeline.archived_engagement (
    hour        timestamptz NOT NULL,
    item_id     text COLLATE "C" NOT NULL,
    campaign_id text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    events      bigint NOT NULL,
    users       bigint NOT NULL,
    value       numeric NOT NULL,
    PRIMARY KEY (hour, item_id, campaign_id, kind)
);
