-- The last events that a profile was acted on for stand with the profile: only what it has no room for goes to event_ids. NULL: all that
-- the profile has seen is in event_ids.
-- All documents are text: they are written by us and read by us alone, and checking that each is JSON cost a sixth of every write.
-- This rewrites both tables and is not understood by the release before: stop its Evaluators first.
ALTER TABLE profiles
    ADD COLUMN seen text,
    ALTER COLUMN attributes TYPE text,
    ALTER COLUMN standings TYPE text,
    ALTER COLUMN behavior TYPE text,
    ALTER COLUMN recent TYPE text;

ALTER TABLE timeline ALTER COLUMN entries TYPE text;

-- Vacuum walks a whole table and its indexes: seldom where updates clean their own pages, and never because rows were added that go anyway.
ALTER TABLE profiles SET (autovacuum_vacuum_scale_factor = 0.2);
ALTER TABLE outbox SET (autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_threshold = 5000);
