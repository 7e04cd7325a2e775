-- Contents that a store refused in a batch: when the batch is staged again, their messages become dead letters.
CREATE TABLE pipeline.refused_events (
    topic        text NOT NULL,
    shard        integer NOT NULL,
    mode         text NOT NULL,
    start_offset bigint NOT NULL,
    end_offset   bigint NOT NULL,
    event_id     text COLLATE "C" NOT NULL,
    digest       text COLLATE "C" NOT NULL,
    version      bigint NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    store        text NOT NULL,
    PRIMARY KEY (topic, shard, mode, start_offset, end_offset, event_id, digest)
);
