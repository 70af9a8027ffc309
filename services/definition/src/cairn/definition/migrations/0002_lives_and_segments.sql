-- Journeys can be paused and ended, and name segments. Programs of the version before go on working: what they do not know
-- has a default, and a journey whose life they did not write counts as live.

ALTER TABLE journeys DROP CONSTRAINT journeys_state_check;
ALTER TABLE journeys ADD CONSTRAINT journeys_state_check CHECK (state IN ('DRAFT', 'LIVE', 'PAUSED', 'ENDED'));
ALTER TABLE journeys ADD COLUMN pause_mode text CHECK (pause_mode IN ('FREEZE', 'RUN', 'DROP')); -- of the present pause
ALTER TABLE journeys ADD COLUMN pause_time timestamptz;
ALTER TABLE journeys ADD CONSTRAINT journeys_pause_check
    CHECK ((state = 'PAUSED') = (pause_mode IS NOT NULL) AND (pause_mode IS NULL) = (pause_time IS NULL));

ALTER TABLE versions ADD COLUMN segments bytea NOT NULL DEFAULT ''; -- JourneyVersion with nothing but its segments

-- Where a published journey is in its life, as it is now. A change takes the next revision, so that whoever has read up to
-- one before it is told; the first life has the revision of version 1.
CREATE TABLE lives (
    journey_id   text COLLATE "C" PRIMARY KEY REFERENCES journeys,
    state        text          NOT NULL CHECK (state IN ('LIVE', 'PAUSED', 'ENDED')),
    pause_modes  text[]        NOT NULL, -- of all pauses, oldest first
    pause_times  timestamptz[] NOT NULL,
    resume_times timestamptz[] NOT NULL, -- NULL for the one that lasts
    end_time     timestamptz, -- NULL unless it is ENDED
    removes      boolean       NOT NULL, -- whether open enrollments were removed at the end
    revision     bigint        NOT NULL UNIQUE,
    CHECK ((state = 'ENDED') = (end_time IS NOT NULL)),
    CHECK (state = 'ENDED' OR NOT removes),
    CHECK (cardinality(pause_modes) = cardinality(pause_times) AND cardinality(pause_times) = cardinality(resume_times))
);
INSERT INTO lives (journey_id, state, pause_modes, pause_times, resume_times, removes, revision)
SELECT journey_id, 'LIVE', '{}', '{}', '{}', false, revision FROM versions WHERE version = 1;

-- Named criteria. Who changes them holds a lock on the table, so that two changes at once never make a ring.
CREATE TABLE segments (
    segment_id  text COLLATE "C" PRIMARY KEY,
    document    bytea       NOT NULL, -- cairn.api.definition.v1.Segment in canonical form
    etag        text        NOT NULL, -- of the document
    names       text[]      NOT NULL, -- the segments that its criteria name
    update_time timestamptz NOT NULL
);
