-- Connections and templates: small, read by name, written by people.
CREATE TABLE resources (
    kind text NOT NULL,
    id text NOT NULL,
    body jsonb NOT NULL,
    etag text NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (kind, id),
    CHECK (kind IN ('connections', 'templates'))
);

-- The ledger, one row for each activation, a partition for each day of request_time.
-- state: 1 PENDING, 2 LEASED, 3 SENDING, 4 SENT, 5 REFUSED, 6 FAILED, 7 UNKNOWN, 8 WITHDRAWN.
CREATE TABLE deliveries (
    bucket integer NOT NULL,
    activation_id text NOT NULL,
    request_time timestamptz NOT NULL,
    profile_id text NOT NULL,
    state smallint NOT NULL CHECK (state BETWEEN 1 AND 8),
    connection text NOT NULL,
    template text NOT NULL,
    action smallint NOT NULL,
    journey_version text NOT NULL,
    stage text NOT NULL,
    step text NOT NULL,
    enrollment text NOT NULL,
    context bytea NOT NULL,
    -- The order of acceptance, in which a connection is served.
    sequence bigint NOT NULL,
    -- The process that has it while it is LEASED or SENDING.
    holder bigint NOT NULL,
    accept_time timestamptz NOT NULL,
    state_time timestamptz NOT NULL,
    next_attempt_time timestamptz NOT NULL,
    attempts integer NOT NULL,
    detail text NOT NULL,
    external_id text NOT NULL,
    receipt_pending boolean NOT NULL,
    PRIMARY KEY (bucket, request_time, activation_id)
) PARTITION BY RANGE (request_time);

-- What can still move; empty when all is quiet.
CREATE INDEX deliveries_open ON deliveries (bucket, connection, sequence) WHERE state <= 3;
CREATE INDEX deliveries_receipts ON deliveries (bucket, request_time) WHERE receipt_pending;
CREATE INDEX deliveries_by_profile ON deliveries (bucket, profile_id, request_time);
CREATE INDEX deliveries_by_id ON deliveries (bucket, activation_id);

-- For what is older than any partition that is still made.
CREATE TABLE deliveries_default PARTITION OF deliveries DEFAULT;
