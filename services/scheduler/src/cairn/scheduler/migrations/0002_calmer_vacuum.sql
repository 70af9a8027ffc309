-- A vacuum walks whole indexes, also those of a million timers that wait: let it come by share as well as by count. Dead rows
-- cost reads little, which begin near what is due now. Inserts alone are no reason: the rows are gone before it would help.
ALTER TABLE timers SET (
    autovacuum_vacuum_scale_factor = 0.1,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_scale_factor = 0.1,
    autovacuum_analyze_threshold = 50000
);
