-- Reference data, a few hundred rows: no bucket. `next_due` is when the schedule is due next; while `firing`, that time is on its way to
-- the sink and stays, so that whoever repeats the call derives the same id. `generation` changes with the times, never with the rest.
CREATE TABLE schedules (
    schedule_id text        COLLATE "C" PRIMARY KEY,
    cron        text        NOT NULL,
    time_zone   text        NOT NULL,
    skip_missed boolean     NOT NULL,
    payload     bytea       NOT NULL,
    generation  bigint      NOT NULL,
    next_due    timestamptz,
    firing      boolean     NOT NULL DEFAULT false,
    last_due    timestamptz,
    last_fired  timestamptz
);

-- What is fired beside the times. A row stays for a while after it was taken, so that a repeated call finds it.
CREATE TABLE schedule_requests (
    schedule_id text        COLLATE "C" NOT NULL REFERENCES schedules ON DELETE CASCADE,
    request_id  text        COLLATE "C" NOT NULL,
    due_time    timestamptz NOT NULL,
    fired       timestamptz,
    PRIMARY KEY (schedule_id, request_id)
);
