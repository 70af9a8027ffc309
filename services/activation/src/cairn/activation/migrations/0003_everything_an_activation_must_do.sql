-- Additive: the release before reads and writes what it knows. `history` holds the attempts before the present state, a JSON object each.
ALTER TABLE deliveries ADD COLUMN time_zone text NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN template_version integer NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN history text[] NOT NULL DEFAULT '{}';

-- What is due, in the order of its time and then of acceptance: what is held until tomorrow is not walked over today.
CREATE INDEX deliveries_due ON deliveries (bucket, connection, next_attempt_time, sequence) WHERE state = 1;
-- What a process has in its hands.
CREATE INDEX deliveries_in_hand ON deliveries (bucket, holder) WHERE state IN (2, 3);
-- For whoever watches; what is in somebody's hands is found there.
CREATE INDEX deliveries_by_state_time ON deliveries (bucket, state_time) WHERE state NOT IN (2, 3);
DROP INDEX deliveries_open;

-- Templates have versions; the newest one is also in `resources`, by which it is found. The sending policy is a resource as well.
ALTER TABLE resources ADD COLUMN version integer NOT NULL DEFAULT 1;
ALTER TABLE resources DROP CONSTRAINT resources_kind_check;
ALTER TABLE resources ADD CONSTRAINT resources_kind_check CHECK (kind IN ('connections', 'templates', 'policies'));
CREATE TABLE template_versions (
    id text NOT NULL,
    version integer NOT NULL,
    body jsonb NOT NULL,
    etag text NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (id, version)
);
INSERT INTO template_versions SELECT id, 1, body, etag, update_time FROM resources WHERE kind = 'templates';

-- The service's own keys, made once: for hashes of addresses and erased ids, and for unsubscribe addresses.
CREATE TABLE keys (
    name text PRIMARY KEY,
    value bytea NOT NULL
);

-- Addresses that get no mail, by a keyed hash; few beside the profiles, and looked up without one: a reference table where tables are
-- distributed. `connection` is '' for all e-mail; `address` is '' after an erasure. reason: the contract's SuppressionReason.
CREATE TABLE suppressions (
    address_hash bytea NOT NULL,
    connection text NOT NULL,
    address text NOT NULL,
    reason smallint NOT NULL,
    source text NOT NULL,
    detail text NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (address_hash, connection)
);
CREATE INDEX suppressions_by_time ON suppressions (create_time, address_hash, connection);

-- What profiles have said about being written to; `connection` is '' for all that have none of their own.
CREATE TABLE consents (
    bucket integer NOT NULL,
    profile_id text NOT NULL,
    connection text NOT NULL,
    granted boolean NOT NULL,
    source text NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, profile_id, connection)
);

-- Whom the audiences should hold: the last change of each person that a platform took. `identifiers` is the JSON object that it got.
-- After an erasure `profile_id` is the hexadecimal keyed hash, until the platform took the removal and the row goes.
CREATE TABLE members (
    bucket integer NOT NULL,
    connection text NOT NULL,
    profile_id text NOT NULL,
    present boolean NOT NULL,
    identifiers text NOT NULL,
    activation_id text NOT NULL,
    sequence bigint NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, profile_id, connection)
);
CREATE INDEX members_by_connection ON members (bucket, connection, profile_id);

-- What destinations told, known again by their own ids. kind: the contract's FeedbackKind.
CREATE TABLE feedback (
    bucket integer NOT NULL,
    provider text NOT NULL,
    event_id text NOT NULL,
    kind smallint NOT NULL,
    activation_id text NOT NULL,
    connection text NOT NULL,
    detail text NOT NULL,
    occur_time timestamptz NOT NULL,
    record_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, provider, event_id)
);
CREATE INDEX feedback_by_activation ON feedback (bucket, activation_id) WHERE activation_id <> '';
CREATE INDEX feedback_by_time ON feedback (record_time);

-- Until when each connection's rate is spoken for, in microseconds since the epoch: all replicas take from the same row.
CREATE TABLE rates (
    connection text PRIMARY KEY,
    spoken_for_us bigint NOT NULL
);

-- Erased profiles, by a keyed hash: what was asked for before is refused.
CREATE TABLE erasures (
    bucket integer NOT NULL,
    profile_hash bytea NOT NULL,
    erase_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, profile_hash)
);
