-- A row is a timer that has not been taken yet: it is written once, read when due, and deleted when the sink took it.
-- Ids are compared byte by byte, so that this order is also Python's, which merges the pages of several buckets.
CREATE TABLE timers (
    bucket   integer     NOT NULL,
    timer_id text        COLLATE "C" NOT NULL,
    key      text        COLLATE "C" NOT NULL,
    due_time timestamptz NOT NULL,
    payload  bytea       NOT NULL,
    state    smallint    NOT NULL DEFAULT 0,  -- 0 pending, 1 parked
    refusal  text        NOT NULL DEFAULT '',
    PRIMARY KEY (bucket, timer_id)
) WITH (
    -- Rows live for a short time, so what is dead soon outnumbers what lives: clean by count, not by share, and without pauses.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000
);

CREATE INDEX timers_due ON timers (bucket, due_time) WHERE state = 0;

CREATE INDEX timers_parked ON timers (bucket, due_time) WHERE state = 1;
