"""Owns journeys as they are served: the versions of each, its pauses and its end, and which inputs concern which of them."""

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cairn.journey.behavior import Need, needs_of
from cairn.journey.plan import Plan


class PauseMode(enum.IntEnum):
    """What a pause does to clocks and to open enrollments; the numbers are those of the contract."""

    FREEZE = 1
    RUN = 2
    DROP = 3


@dataclass(frozen=True, slots=True)
class Pause:
    """One pause; `until_us` is None while it lasts."""

    mode: PauseMode
    since_us: int
    until_us: int | None = None


@dataclass(frozen=True, slots=True)
class LiveJourney:
    """A journey as it is served: the newest version takes new enrollments, the others keep those they have.

    `pauses` are all there were, oldest first; `end_us` is when the journey ended (None: it has not), and `removes` whether
    that removed open enrollments.
    """

    plans: Mapping[int, Plan]
    pauses: tuple[Pause, ...] = ()
    end_us: int | None = None
    removes: bool = False
    journey_id: str = field(init=False)
    newest: Plan = field(init=False)
    has_lived: bool = field(init=False)
    """Whether it was ever paused or has ended."""
    event_names: frozenset[str] | None = field(init=False)
    is_keyed: bool = field(init=False)
    is_batch: bool = field(init=False)
    """Whether runs move it, rather than events, changes of profiles and timers. A journey keeps its type in all its versions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "newest", self.plans[max(self.plans)])
        object.__setattr__(self, "journey_id", self.newest.journey_id)
        object.__setattr__(self, "has_lived", bool(self.pauses) or self.end_us is not None)
        names: frozenset[str] | None = frozenset()
        for plan in self.plans.values():
            more = plan.event_names
            names = None if names is None or more is None else names | more
        object.__setattr__(self, "event_names", names)
        object.__setattr__(self, "is_keyed", any(plan.key for plan in self.plans.values()))
        object.__setattr__(self, "is_batch", self.newest.is_batch)
        if self.end_us is not None and self.pauses and self.pauses[-1].until_us is None:
            # The end of a journey ends its pause.
            last = Pause(self.pauses[-1].mode, self.pauses[-1].since_us, self.end_us)
            object.__setattr__(self, "pauses", (*self.pauses[:-1], last))

    @property
    def pause(self) -> Pause | None:
        """The pause that lasts, if one does."""
        return self.pauses[-1] if self.pauses and self.pauses[-1].until_us is None else None

    @property
    def can_begin_by_profile(self) -> bool:
        """Whether a change of a profile alone can begin the journey or meet its goal: whether they can hold without an event."""
        newest = self.newest
        return not newest.entry.needs_event or (newest.goal is not None and not newest.goal.needs_event)


class LiveJourneys:
    """All journeys that are served, and an index of which inputs concern them. Immutable.

    Batch journeys are in none of the indexes: only runs concern them. What their criteria ask of behavior is kept all the same.
    """

    def __init__(self, journeys: Iterable[LiveJourney] = ()) -> None:
        by_id = {journey.journey_id: journey for journey in journeys}
        # One order wherever and whenever: of two that jump to the same third, the first is the one that begins it.
        self._journeys = dict(sorted(by_id.items()))
        served = self._journeys.values()
        moved_by_inputs = tuple(journey for journey in served if not journey.is_batch)
        everyone = tuple(journey for journey in moved_by_inputs if journey.event_names is None)
        by_event: dict[str, list[LiveJourney]] = {}
        for journey in moved_by_inputs:
            for name in journey.event_names or ():
                by_event.setdefault(name, []).append(journey)
        self._by_any_event = everyone
        self._by_event = {
            name: tuple(sorted((*everyone, *named), key=lambda journey: journey.journey_id))
            for name, named in by_event.items()
        }
        self.have_lives = any(journey.has_lived for journey in served)
        """Whether any journey was ever paused or has ended: else nobody has to ask."""
        self.by_profile = tuple(journey for journey in moved_by_inputs if journey.can_begin_by_profile)
        self.ids_by_profile = frozenset(journey.journey_id for journey in self.by_profile)
        self.batch_ids = frozenset(journey.journey_id for journey in served if journey.is_batch)
        """The ids of the batch journeys; those of the standings with them as well, as they have no keys."""
        self.needs: Mapping[str, Need] = needs_of(
            ask
            for journey in served
            for plan in journey.plans.values()
            for criteria in plan.criteria()
            for ask in criteria.asks
        )

    def get(self, journey_id: str) -> LiveJourney | None:
        """A journey, or None."""
        return self._journeys.get(journey_id)

    def has_need(self, name: str) -> bool:
        """Whether a profile's behavior has to keep events of this name, whether they move a journey or not."""
        return name in self.needs

    def concerned_by_event(self, name: str) -> tuple[LiveJourney, ...]:
        """The journeys that events of this name reach."""
        return self._by_event.get(name, self._by_any_event)

    def __iter__(self) -> Iterator[LiveJourney]:
        return iter(self._journeys.values())
