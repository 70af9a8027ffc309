"""Owns what is counted of a batch: metrics are told once a batch, not once an input."""

from collections import Counter
from collections.abc import Sequence

from prometheus_client import Counter as Metric

from cairn.evaluator import metrics
from cairn.evaluator.evaluation import Evaluated
from cairn.evaluator.inputs import (
    Arrival,
    EventArrival,
    LifeArrival,
    ProfileArrival,
    ReceiptArrival,
    ReplayArrival,
    Result,
    RunArrival,
    TimerArrival,
)
from cairn.journey.state import Kind, Transition


class Tally:
    """What one batch did, to be told when it is committed."""

    def __init__(self) -> None:
        self._arrivals: list[Arrival] = []
        self._transitions: list[Transition] = []
        self._due_us: list[int] = []

    def add(self, arrivals: Sequence[Arrival], evaluated: Evaluated) -> None:
        """Takes what came of one profile's arrivals."""
        self._arrivals += arrivals
        self._transitions += evaluated.transitions
        for arrival, result in zip(arrivals, evaluated.results, strict=True):
            if type(arrival) is TimerArrival and result is Result.ACTED_ON:
                self._due_us.append(arrival.timer.time_us)

    def tell(self, now_us: int) -> None:
        """Adds it all to the metrics."""
        for kind, count in Counter([type(each) for each in self._arrivals]).items():
            _INPUTS[kind].inc(count)
        told = Counter([(each.journey_id, each.kind) for each in self._transitions])
        for (journey_id, number), count in told.items():
            metrics.TRANSITIONS.labels(journey_id, Kind(number).name).inc(count)
        for due_us in self._due_us:
            metrics.TIMER_LATENESS.observe(max(0, now_us - due_us) / 1_000_000)


_INPUTS: dict[type, Metric] = {
    kind: metrics.INPUTS.labels(name)
    for kind, name in (
        (EventArrival, "event"),
        (ReplayArrival, "replay"),
        (TimerArrival, "timer"),
        (LifeArrival, "life"),
        (ReceiptArrival, "receipt"),
        (ProfileArrival, "profile"),
        (RunArrival, "run"),
    )
}
