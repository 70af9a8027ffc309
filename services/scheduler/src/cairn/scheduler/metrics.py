"""Owns the Scheduler's metrics; what is shared by all services is in `cairn.runtime.metrics`."""

from prometheus_client import Counter, Gauge, Histogram

TIMERS_SCHEDULED = Counter("cairn_scheduler_timers_scheduled_total", "New timers accepted.")
TIMERS_CANCELED = Counter("cairn_scheduler_timers_canceled_total", "Timers canceled before they fired.")
TIMERS_FIRED = Counter(
    "cairn_scheduler_timers_fired_total", "Timers sent to the sink, by what it answered.", ["answer"]
)
LATENESS = Histogram(
    "cairn_scheduler_timer_lateness_seconds",
    "From a timer's due time to the sink's acceptance, by Postgres' clock.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 600.0),
)
SINK_FAILURES = Counter("cairn_scheduler_sink_failures_total", "Calls to the sink that failed.", ["code"])
TIMERS_OVERDUE = Gauge(
    "cairn_scheduler_timers_overdue", "Timers of owned shards due over a second ago and not taken (sampled)."
)
TIMERS_PARKED = Gauge(
    "cairn_scheduler_timers_parked", "Timers of owned shards that the sink refused for good (sampled)."
)
SCHEDULES_FIRED = Counter(
    "cairn_scheduler_schedules_fired_total",
    "Firings of schedules, by what the sink answered, `missed` for those that were left out.",
    ["answer"],
)
SCHEDULES_OVERDUE = Gauge(
    "cairn_scheduler_schedules_overdue",
    "Schedules due over a second ago and not taken (sampled, by the replica that fires them).",
)
SHARDS_OWNED = Gauge("cairn_scheduler_shards_owned", "Shards that this replica owns.")
CLOCK_OFFSET = Gauge(
    "cairn_scheduler_clock_offset_seconds", "Postgres' clock less this machine's, as last measured."
)
