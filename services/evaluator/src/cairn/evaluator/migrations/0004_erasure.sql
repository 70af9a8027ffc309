-- Who was erased: a hash of the profile's id under the key below, never the id; the revision that the profile had come to, and when it
-- was erased. The row goes when UpsertProfiles makes the profile anew.
CREATE TABLE tombstones (
    bucket int NOT NULL,
    profile_hash bytea NOT NULL,
    revision bigint NOT NULL,
    erase_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, profile_hash)
);

-- How many erasures a bucket has had. Whoever makes a profile shares a lock on the row and compares the number with the one it knew when
-- it looked for tombstones: who does not know of an erasure cannot bring a profile back.
CREATE TABLE erasures (
    bucket int PRIMARY KEY,
    number bigint NOT NULL
);

-- Secrets that were made here once and must never change.
CREATE TABLE keys (
    name text PRIMARY KEY,
    secret bytea NOT NULL
);

-- The erasures of a batch on their way to Activation. Evaluators of the release before would neither pass them on nor look for
-- tombstones: stop them before the first profile is erased.
ALTER TABLE outbox ADD COLUMN erase bytea;
