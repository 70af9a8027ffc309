"""Owns which journeys are served: their plans, and which events and profiles concern them."""

import asyncio
from collections.abc import Iterable, Sequence

import structlog

from cairn.api.definition.v1 import journey_pb2
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.evaluator import metrics
from cairn.journey.parse import parse_journey, short_name
from cairn.journey.plan import LiveJourney, Plan, compile_plan
from cairn.runtime.errors import CairnError

log = structlog.get_logger()


class JourneyBook:
    """The journeys that this process serves, and the revision of Definition that they stand for.

    `speed` divides every duration as a plan is made. Until a first revision has come nothing is known, and no event
    can be taken: it might concern a journey.
    """

    def __init__(self, speed: int) -> None:
        self._speed = speed
        self._plans: dict[str, dict[int, Plan]] = {}
        self._journeys: dict[str, LiveJourney] = {}
        self._by_event: dict[str, tuple[LiveJourney, ...]] = {}
        self._by_any_event: tuple[LiveJourney, ...] = ()
        self._by_profile: tuple[LiveJourney, ...] = ()
        self._revision: int | None = None
        self._moved = asyncio.Condition()

    @property
    def revision(self) -> int:
        """The revision that is served; 0 before the first."""
        return self._revision or 0

    @property
    def is_known(self) -> bool:
        """Whether a first revision has come."""
        return self._revision is not None

    def get(self, journey_id: str) -> LiveJourney | None:
        """A journey, or None."""
        return self._journeys.get(journey_id)

    def concerned_by_event(self, name: str) -> tuple[LiveJourney, ...]:
        """The journeys that events of this name reach."""
        return self._by_event.get(name, self._by_any_event)

    def concerned_by_profile(self) -> tuple[LiveJourney, ...]:
        """The journeys that a change of a profile can begin, or whose goal it can meet."""
        return self._by_profile

    def require(self) -> None:
        """Raises NOT_READY before the first revision."""
        if not self.is_known:
            raise CairnError(
                ErrorReason.ERROR_REASON_NOT_READY,
                "The Evaluator knows no journeys yet, as Definition has not answered; repeat the call with the same ids.",
                retry_after_s=1.0,
            )

    async def wait_until_known(self) -> None:
        """Waits until a first revision has come."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.is_known)

    async def wait_for(self, revision: int) -> None:
        """Waits until this revision is served; the call's deadline ends the wait."""
        if self.revision < revision:
            async with self._moved:
                await self._moved.wait_for(lambda: self.revision >= revision)

    async def add(self, revision: int, versions: Iterable[journey_pb2.JourneyVersion]) -> None:
        """Serves versions, and says that they complete a revision. Versions that are known already stay as they are."""
        added = [plan for version in versions if (plan := self._plan(version)) is not None]
        if added:
            for plan in added:
                self._plans.setdefault(plan.journey_id, {})[plan.version] = plan
            self._index()
        if self._revision is None or revision > self._revision:
            self._revision = revision
            metrics.REVISION.set(revision)
            async with self._moved:
                self._moved.notify_all()

    def _plan(self, version: journey_pb2.JourneyVersion) -> Plan | None:
        journey_id = short_name("journeys", version.journey.name)
        if version.version in self._plans.get(journey_id, {}):
            return None
        journey, violations = parse_journey(version.journey)
        if journey is None:
            # Published means valid: a newer Definition knows something that this program does not.
            log.error(
                "journey_not_understood", journey=journey_id, version=version.version, why=str(violations[0])
            )
            return None
        return compile_plan(journey, version.version, speed=self._speed)

    def _index(self) -> None:
        journeys = {journey_id: LiveJourney(dict(plans)) for journey_id, plans in self._plans.items()}
        everyone = [journey for journey in journeys.values() if journey.event_names is None]
        by_event: dict[str, list[LiveJourney]] = {}
        for journey in journeys.values():
            for name in journey.event_names or ():
                by_event.setdefault(name, list(everyone)).append(journey)
        self._journeys = journeys
        self._by_any_event = tuple(everyone)
        self._by_event = {name: tuple(concerned) for name, concerned in by_event.items()}
        self._by_profile = tuple(journey for journey in journeys.values() if _reads_profile(journey.newest))


def _reads_profile(plan: Plan) -> bool:
    """Whether a change of a profile alone can begin the journey or meet its goal."""
    return plan.entry.reads_profile or (plan.goal is not None and plan.goal.reads_profile)


def parse_versions(documents: Sequence[bytes]) -> list[journey_pb2.JourneyVersion]:
    """Stored versions as messages."""
    return [journey_pb2.JourneyVersion.FromString(document) for document in documents]
