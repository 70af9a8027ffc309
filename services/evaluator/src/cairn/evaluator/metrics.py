"""Owns the Evaluator's metrics, each declared once."""

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter(
    "cairn_evaluator_events_total",
    "Events by what became of them: acted_on, duplicate, of_no_concern, refused.",
    ["result"],
)
INPUTS = Counter("cairn_evaluator_inputs_total", "Inputs that lanes took, by kind.", ["kind"])
BATCH_INPUTS = Histogram(
    "cairn_evaluator_batch_inputs",
    "Inputs in one transaction.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000),
)
BATCH_SECONDS = Histogram(
    "cairn_evaluator_batch_seconds",
    "How long one batch took, from its first read to its commit, in seconds.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LANE_BACKLOG = Gauge("cairn_evaluator_lane_backlog", "Inputs that wait in a lane.", ["bucket"])
SWAPS_LOST = Counter(
    "cairn_evaluator_swaps_lost_total", "Profiles that another replica had changed, and that were run again."
)
BATCHES_FAILED = Counter("cairn_evaluator_batches_failed_total", "Batches that failed as a whole.")
INPUTS_FAILED = Counter(
    "cairn_evaluator_inputs_failed_total", "Inputs on which the machine failed: a defect."
)
CRITERIA_FAILED = Counter(
    "cairn_evaluator_criteria_failed_total",
    "Criteria that failed on an input and were false for it.",
    ["journey"],
)
TRANSITIONS = Counter("cairn_evaluator_transitions_total", "Transitions recorded.", ["journey", "kind"])
TIMER_LATENESS = Histogram(
    "cairn_evaluator_timer_lateness_seconds",
    "From when a timer was due to when its effects were committed, in seconds.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600),
)
OUTBOX_UNSENT = Gauge(
    "cairn_evaluator_outbox_unsent", "Outbox rows that a destination has not accepted yet.", ["destination"]
)
EFFECTS_SENT = Counter("cairn_evaluator_effects_sent_total", "Effects that were accepted, by kind.", ["kind"])
EFFECTS_REFUSED = Counter("cairn_evaluator_effects_refused_total", "Effects refused for good.", ["kind"])
OUTBOX_ADOPTED = Counter(
    "cairn_evaluator_outbox_adopted_total", "Outbox rows of others that were sent for them."
)
PROFILES_ERASED = Counter("cairn_evaluator_profiles_erased_total", "Profiles that were erased.")
REVISION = Gauge("cairn_evaluator_journey_revision", "The revision of Definition that is served.")
RUNS = Gauge("cairn_evaluator_runs", "Runs of batch journeys that are not over: running, paused.", ["state"])
RUN_PROFILES = Counter("cairn_evaluator_run_profiles_total", "Profiles that runs looked at.")
RUN_MOVES = Counter("cairn_evaluator_run_moves_total", "Profiles that runs moved.")
