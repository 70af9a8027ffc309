-- Fates that are still to be told: a row for each batch of deliveries that became final in one transaction, written in it. What is
-- told stands in the ledger's rows. They are served in the order of `sequence`; `writer` is the process that settled the batch.
-- Rows whose `receipt_pending` is true were settled by the release before; the owner of their bucket moves them here.
CREATE TABLE receipts (
    bucket integer NOT NULL,
    sequence bigint NOT NULL,
    writer bigint NOT NULL,
    activation_ids text[] NOT NULL,
    request_times timestamptz[] NOT NULL,
    PRIMARY KEY (bucket, sequence, writer)
);

-- They live for less than a second: compressing them costs more than it saves.
ALTER TABLE receipts ALTER COLUMN activation_ids SET STORAGE EXTERNAL;
ALTER TABLE receipts ALTER COLUMN request_times SET STORAGE EXTERNAL;
