-- Journeys, their versions, and who serves them. All tables are small: on Citus they are reference tables.

CREATE TABLE journeys (
    journey_id     text COLLATE "C" PRIMARY KEY,
    draft          bytea       NOT NULL, -- cairn.api.definition.v1.Journey in canonical form
    etag           text        NOT NULL, -- of the draft's content
    state          text        NOT NULL CHECK (state IN ('DRAFT', 'LIVE')),
    latest_version integer     NOT NULL CHECK (latest_version >= 0), -- 0: never published
    create_time    timestamptz NOT NULL,
    update_time    timestamptz NOT NULL, -- of the draft
    CHECK ((state = 'DRAFT') = (latest_version = 0))
);

-- What was published. Rows are inserted and never changed.
CREATE TABLE versions (
    journey_id   text COLLATE "C" NOT NULL REFERENCES journeys,
    version      integer     NOT NULL CHECK (version > 0),
    document     bytea       NOT NULL, -- the draft as it was
    etag         text        NOT NULL,
    publish_time timestamptz NOT NULL,
    revision     bigint      NOT NULL UNIQUE,
    PRIMARY KEY (journey_id, version)
);

-- The newest revision. A publisher holds the row's lock until its commit, so revisions have no gaps and
-- become visible in their order: who has read up to one has missed nothing before it.
CREATE TABLE revision (
    only_row boolean PRIMARY KEY CHECK (only_row),
    value    bigint  NOT NULL
);
INSERT INTO revision (only_row, value) VALUES (true, 0);

-- The processes that serve journeys, and up to which revision each does.
CREATE TABLE watchers (
    watcher   text        PRIMARY KEY,
    revision  bigint      NOT NULL,
    seen_time timestamptz NOT NULL
);

-- Answers to the mutations that carried a request id, kept for a day.
CREATE TABLE requests (
    request_id   text        PRIMARY KEY,
    fingerprint  bytea       NOT NULL, -- of the method and the whole request
    response     bytea       NOT NULL,
    request_time timestamptz NOT NULL
);
CREATE INDEX requests_by_time ON requests (request_time);
