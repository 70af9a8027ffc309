"""Owns which journeys are served: their plans and lives, and the revision of Definition that they stand for."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from cairn.api.definition.v1 import journey_pb2
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.evaluator import metrics
from cairn.journey.live import LiveJourney, LiveJourneys, Pause, PauseMode
from cairn.journey.parse import parse_journey
from cairn.journey.plan import Plan, compile_plan
from cairn.journey.walk import short_name
from cairn.runtime.clock import from_timestamp
from cairn.runtime.errors import CairnError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Removal:
    """A change of a journey's life that ends its open enrollments, and when it did."""

    journey_id: str
    revision: int
    time_us: int


class JourneyBook:
    """The journeys that this process serves.

    `speed` divides every duration as a plan is made. Until a first revision has come nothing is known, and no event
    can be taken: it might concern a journey.
    """

    def __init__(self, speed: int) -> None:
        self._speed = speed
        self._plans: dict[str, dict[int, Plan]] = {}
        self._lives: dict[str, journey_pb2.JourneyLife] = {}
        self._revision: int | None = None
        self._is_all = False
        self._moved = asyncio.Condition()
        self.live = LiveJourneys()

    @property
    def revision(self) -> int:
        """The revision that is served; 0 before the first."""
        return self._revision or 0

    @property
    def is_known(self) -> bool:
        """Whether all that there was at first has come."""
        return self._is_all

    def get(self, journey_id: str) -> LiveJourney | None:
        """A journey, or None."""
        return self.live.get(journey_id)

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

    async def add(
        self,
        revision: int,
        versions: Iterable[journey_pb2.JourneyVersion],
        lives: Iterable[journey_pb2.JourneyLife] = (),
        *,
        is_all: bool = True,
    ) -> None:
        """Serves versions and lives, and says that they complete a revision. What is known already stays as it is.

        Before the first that says that it `is_all` there is nothing is taken: a pause might stand on a page to come.
        """
        added = [plan for version in versions if (plan := self._plan(version)) is not None]
        for plan in added:
            self._plans.setdefault(plan.journey_id, {})[plan.version] = plan
        newer = [life for life in lives if self._is_newer(life)]
        for life in newer:
            self._lives[short_name("journeys", life.journey)] = life
        if added or newer:
            self.live = LiveJourneys(self._journey(journey_id) for journey_id in self._plans)
        if self._revision is None or revision > self._revision or (is_all and not self._is_all):
            self._revision = revision
            self._is_all = self._is_all or is_all
            metrics.REVISION.set(revision)
            async with self._moved:
                self._moved.notify_all()

    def removals(self) -> Iterator[Removal]:
        """The lives that end open enrollments: by a pause that drops them, or by the journey's end."""
        for journey_id, life in self._lives.items():
            moments = [
                from_timestamp(pause.pause_time)
                for pause in life.pauses
                if pause.mode == journey_pb2.PAUSE_MODE_DROP
            ]
            if life.removes:
                moments.append(from_timestamp(life.end_time))
            if moments and journey_id in self._plans:
                yield Removal(journey_id, life.revision, max(moments))

    def resumed(self) -> dict[str, int]:
        """The journeys that were paused and are no more, each with the end of its last pause."""
        found = {}
        for journey in self.live:
            if journey.pauses and journey.pauses[-1].until_us is not None:
                found[journey.journey_id] = journey.pauses[-1].until_us
        return found

    def _is_newer(self, life: journey_pb2.JourneyLife) -> bool:
        known = self._lives.get(short_name("journeys", life.journey))
        return known is None or life.revision > known.revision

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
        segments = {short_name("segments", each.name): each.criteria for each in version.segments}
        return compile_plan(journey, version.version, speed=self._speed, segments=segments)

    def _journey(self, journey_id: str) -> LiveJourney:
        life = self._lives.get(journey_id, journey_pb2.JourneyLife())
        return LiveJourney(
            dict(self._plans[journey_id]),
            pauses=tuple(_pause(each) for each in life.pauses),
            end_us=from_timestamp(life.end_time) if life.HasField("end_time") else None,
            removes=life.removes,
        )


def _pause(message: journey_pb2.Pause) -> Pause:
    return Pause(
        PauseMode(message.mode or journey_pb2.PAUSE_MODE_FREEZE),
        from_timestamp(message.pause_time),
        from_timestamp(message.resume_time) if message.HasField("resume_time") else None,
    )


def parse_versions(documents: Sequence[bytes]) -> list[journey_pb2.JourneyVersion]:
    """Stored versions as messages."""
    return [journey_pb2.JourneyVersion.FromString(document) for document in documents]


def parse_lives(documents: Sequence[bytes]) -> list[journey_pb2.JourneyLife]:
    """Stored lives as messages."""
    return [journey_pb2.JourneyLife.FromString(document) for document in documents]
