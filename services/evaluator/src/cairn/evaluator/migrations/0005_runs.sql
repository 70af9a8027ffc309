-- Runs of BATCH journeys, the last ones of each. `origin` is what began it, where that may come again: a call's id, or one firing of a
-- schedule. What a run has done stands in run_buckets.
CREATE TABLE runs (
    journey_id text COLLATE "C" NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    version int NOT NULL,
    state smallint NOT NULL,
    cause text NOT NULL,
    origin text,
    run_time timestamptz NOT NULL,
    end_time timestamptz,
    take_time timestamptz,
    take_seen bigint NOT NULL DEFAULT 0,
    estimate bigint NOT NULL,
    problem text NOT NULL DEFAULT '',
    PRIMARY KEY (journey_id, run_id)
);
-- One run of a journey at a time: running (1) or paused (2).
CREATE UNIQUE INDEX runs_open ON runs (journey_id) WHERE state IN (1, 2);
CREATE UNIQUE INDEX runs_origin ON runs (journey_id, origin);
CREATE INDEX runs_time ON runs (run_time, journey_id, run_id);

-- How far a run is in each bucket: all profiles up to `after_id` are done, and what came of them is counted. `profiles` is how many there
-- were when it began there, NULL until then.
CREATE TABLE run_buckets (
    bucket int NOT NULL,
    journey_id text COLLATE "C" NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    profiles bigint,
    after_id text COLLATE "C" NOT NULL DEFAULT '',
    done boolean NOT NULL DEFAULT false,
    seen bigint NOT NULL DEFAULT 0,
    moved bigint NOT NULL DEFAULT 0,
    entered bigint NOT NULL DEFAULT 0,
    activated bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (bucket, journey_id, run_id)
);
CREATE INDEX run_buckets_run ON run_buckets (journey_id, run_id);
