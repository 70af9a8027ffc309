"""Owns Activation's metrics. Each look-up of a label takes a lock, so a batch makes few."""

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from cairn.activation.ledger import Settled
from cairn.activation.model import Claim

ACCEPTED = Counter("cairn_activation_accepted_total", "Activations that were new and are durable.")

DELIVERIES = Counter(
    "cairn_activation_deliveries_total",
    "Results written to the ledger, by kind of connection and state; PENDING is another try.",
    ["kind", "state"],
)

PREVENTED = Counter(
    "cairn_activation_prevented_total",
    "Sends that were prevented for good, by reason: suppressed, consent, frequency_cap, withdrawn, erased.",
    ["reason"],
)

HELD = Counter(
    "cairn_activation_held_total",
    "Looks by the last-moment guard that ended in a new time, by reason: quiet_hours, journey_paused.",
    ["reason"],
)

FINAL_SECONDS = Histogram(
    "cairn_activation_final_seconds",
    "From the acceptance of a delivery to its final state, in seconds, where it had to leave the house.",
    ["kind"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)

PENDING = Gauge(
    "cairn_activation_pending",
    "Deliveries that are PENDING in the buckets of this process; of a bucket that has more than 100,000, so many.",
)

CONNECTIONS_RESTING = Gauge(
    "cairn_activation_connections_resting",
    "Connections that this process lets rest, because their destination is in trouble.",
)

BREAKER_CHANGES = Counter(
    "cairn_activation_breaker_changes_total",
    "How often a connection began to rest (open) or works again (closed), by kind of connection.",
    ["kind", "phase"],
)

PUBLIC_REQUESTS = Counter(
    "cairn_activation_public_requests_total",
    "Requests to the public HTTP server, by route and status.",
    ["route", "status"],
)

FEEDBACK = Counter(
    "cairn_activation_feedback_total",
    "What providers' webhooks told of deliveries, by provider and kind, repetitions included.",
    ["provider", "kind"],
)

RECEIPTS_PENDING = Gauge(
    "cairn_activation_receipts_pending", "Receipts in the buckets of this process that nobody took yet."
)

BUCKETS = Gauge("cairn_activation_buckets", "Buckets that this process works on.")


def count_results(kind: str, results: Sequence[tuple[Claim, Settled]], now: int) -> None:
    """Counts what was written of a batch at a time, in microseconds."""
    for state, count in Tally(result.state for _, result in results).items():
        DELIVERIES.labels(kind, state.name).inc(count)
    seconds = FINAL_SECONDS.labels(kind)
    for claim, result in results:
        if result.final:
            seconds.observe((now - claim.accept_us) / 1_000_000)
