-- Profiles with all that moves with their revision: attributes and how they stand with each journey. The revision is what
-- writers compare and swap on. Half of each page stays free, so that an update finds room beside the old row.
CREATE TABLE profiles (
    bucket int NOT NULL,
    profile_id text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    attributes json,
    time_zone text,
    standings json,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, profile_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- The events that were acted on, for as long as a duplicate may come.
CREATE TABLE event_ids (
    bucket int NOT NULL,
    profile_id text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    arrival_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, profile_id, event_id, arrival_time)
) PARTITION BY RANGE (arrival_time);

-- What happened to a profile: the transitions of one revision in one row, a receipt, a refused effect. Append-only.
-- row_id is the revision for transitions, a hash of what is told otherwise: telling it twice changes nothing.
CREATE TABLE timeline (
    bucket int NOT NULL,
    profile_id text COLLATE "C" NOT NULL,
    record_time timestamptz NOT NULL,
    row_id bigint NOT NULL,
    kind smallint NOT NULL,
    entries json NOT NULL,
    PRIMARY KEY (bucket, profile_id, record_time, row_id)
) PARTITION BY RANGE (record_time);

-- Effects on their way: one row for a batch, gone when both receivers have accepted their part. Each part is a request of the contract.
CREATE TABLE outbox (
    bucket int NOT NULL,
    writer bigint NOT NULL,
    sequence bigint NOT NULL,
    write_time timestamptz NOT NULL,
    schedule bytea,
    cancel bytea,
    activate bytea,
    withdraw bytea,
    PRIMARY KEY (bucket, writer, sequence)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- The published versions that this service knows, so that it goes on when Definition is away.
CREATE TABLE journey_versions (
    journey_id text NOT NULL,
    version int NOT NULL,
    revision bigint NOT NULL,
    document bytea NOT NULL,
    PRIMARY KEY (journey_id, version)
);

-- The revision of Definition up to which journey_versions is complete.
CREATE TABLE journey_revision (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint NOT NULL
);

-- Days that nobody made a partition for still have a place.
CREATE TABLE event_ids_default PARTITION OF event_ids DEFAULT;
CREATE TABLE timeline_default PARTITION OF timeline DEFAULT;
