"""Owns the metrics that every service has. A service declares its own, `cairn_<service>_...`, in its
`metrics.py`."""

from prometheus_client import Counter, Histogram

GRPC_CALLS = Counter(
    "cairn_grpc_calls_total",
    "Finished calls by service, method and status code.",
    ["service", "method", "code"],
)

GRPC_CALL_SECONDS = Histogram(
    "cairn_grpc_call_seconds",
    "How long unary calls took, from the first byte handled to the answer, in seconds.",
    ["service", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
"""Unary calls only: how long a stream lives says nothing about us."""
