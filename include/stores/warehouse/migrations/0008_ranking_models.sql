-- Trained rankings; their arrays are files. The model that was promoted last is in service.
CREATE TABLE pipeline.ranking_models (
    version     text COLLATE "C" PRIMARY KEY,
    trained_at  timestamptz NOT NULL,
    as_of       timestamptz NOT NULL,
    users       bigint NOT NULL,
    items       bigint NOT NULL,
    events      bigint NOT NULL,
    ndcg        double precision NOT NULL,
    short_ndcg  double precision NOT NULL,
    settings    jsonb NOT NULL,
    card        text NOT NULL,
    promoted_at timestamptz
);
