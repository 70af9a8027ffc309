-- A profile's behavior, as far as live journeys ask about it; the last events that changed nothing, from which Explain answers; and the
-- journeys in whose pause something of the profile is held: what has to go on when one of them resumes is found by the index.
ALTER TABLE profiles ADD COLUMN behavior json;
ALTER TABLE profiles ADD COLUMN recent json;
ALTER TABLE profiles ADD COLUMN held_in text[];
CREATE INDEX profiles_held ON profiles (bucket, profile_id) WHERE held_in IS NOT NULL;

-- Where each journey is in its life, as Definition said last: pauses and the end.
CREATE TABLE journey_lives (
    journey_id text PRIMARY KEY,
    revision bigint NOT NULL,
    document bytea NOT NULL
);

-- Up to which revision of a journey's life the open enrollments of a bucket have been removed, where the life removes them.
CREATE TABLE removals (
    bucket int NOT NULL,
    journey_id text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    PRIMARY KEY (bucket, journey_id)
);
