"""Owns performing the demo's story: definitions, profiles, events in time, and watching until nothing moves any more."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from cairn.api.activation.v1.activation_pb2 import (
    Connection,
    Delivery,
    ListDeliveriesRequest,
    PutConnectionRequest,
)
from cairn.api.evaluator.v1.evaluator_pb2 import (
    Enrollment,
    EnrollmentState,
    Event,
    GetTimelineRequest,
    IngestEventsRequest,
    ListEnrollmentsRequest,
    Profile,
    TimelineEntry,
    TransitionKind,
    UpsertProfilesRequest,
)
from cairn.cli.apply import Result, apply_sources, wait_live
from cairn.cli.connect import Services, all_items
from cairn.cli.demo_click import first_mail, unsubscribe
from cairn.cli.demo_judge import is_final
from cairn.cli.demo_story import CLICKS, HAPPENINGS, LONGEST_MINUTES, MINUTE_US, PEOPLE, Happening
from cairn.cli.documents import read_sources
from cairn.cli.failures import CommandError
from cairn.cli.jsonl import to_struct
from cairn.runtime.clock import from_timestamp, now_us, to_timestamp

_FILES = ("templates.yaml", "welcome.yaml", "abandoned-cart.yaml", "audience/retargeting.yaml")
_POLL_SECONDS = 0.2
_QUIET_SECONDS = 1.5  # long enough for a message too many to be seen
_PATIENCE_SECONDS = 30.0
_LIVE_SECONDS = 20.0

Show = Callable[[str, TimelineEntry], None]
Tell = Callable[[str, str], None]
"""Called with whom, and what they did, in words."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What the services say in the end: the ledger, and how late each timer was acted on, in microseconds."""

    deliveries: tuple[Delivery, ...]
    lateness_us: tuple[int, ...]


class Play:
    """One performance of the story, `speed` times faster than real life."""

    def __init__(self, services: Services, speed: int, mailbox: Path) -> None:
        self.known_again = 0
        self._services = services
        self._mailbox = mailbox
        self._speed = speed
        self._revision = 0
        self._began_us = 0
        self._seen = dict.fromkeys((person.profile_id for person in PEOPLE), 0)
        self._lateness_us: list[int] = []

    def minute_of(self, real_us: int) -> int:
        """The minute of the story at a real time."""
        return (real_us - self._began_us) * self._speed // MINUTE_US

    async def prepare(self, connections: Iterable[Connection], examples: Path) -> Result:
        """Put the connections, apply the example files as they are, and wait until the journeys are live."""
        for connection in connections:
            await self._services.activation.PutConnection(PutConnectionRequest(connection=connection))
        sources = read_sources(str(examples / name) for name in _FILES)
        result = await apply_sources(self._services, sources)
        await wait_live(self._services, result.revision, _LIVE_SECONDS)
        self._revision = result.revision
        profiles = [
            Profile(profile_id=person.profile_id, attributes=to_struct(dict(person.attributes)))
            for person in PEOPLE
        ]
        answer = await self._services.evaluator.UpsertProfiles(UpsertProfilesRequest(profiles=profiles))
        if answer.refusals:
            raise CommandError(f"the Evaluator refused a profile of the story: {answer.refusals[0].message}")
        return result

    async def perform(self, show: Show, tell: Tell) -> Settled:
        """Send the story's events in its time and show what comes of them, until nothing moves any more.

        Returns as well when the patience is at its end; the verdict then tells what is missing.
        """
        self._began_us = now_us()
        sending = asyncio.ensure_future(asyncio.gather(self._send_all(), self._click_all(tell)))
        deadline = time.monotonic() + LONGEST_MINUTES * 60 / self._speed + _PATIENCE_SECONDS
        quiet_since = None
        try:
            while time.monotonic() < deadline:
                moved = await self._look(show)
                if sending.done():
                    sending.result()
                if moved or not sending.done() or not await self._is_settled():
                    quiet_since = None
                elif quiet_since is None:
                    quiet_since = time.monotonic()
                elif time.monotonic() - quiet_since > _QUIET_SECONDS:
                    break
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            sending.cancel()
        return Settled(tuple(await self._deliveries()), tuple(self._lateness_us))

    async def _send_all(self) -> None:
        for minute, happenings in groupby(HAPPENINGS, lambda each: each.minute):
            due_us = self._real_us(minute)
            await asyncio.sleep(max(0, due_us - now_us()) / 1_000_000)
            request = IngestEventsRequest(
                events=[self._event(each) for each in happenings], min_revision=self._revision
            )
            answer = await self._services.evaluator.IngestEvents(request)
            self.known_again += answer.duplicates
            if answer.refusals:
                raise CommandError(
                    f"the Evaluator refused an event of the story: {answer.refusals[0].message}"
                )

    async def _click_all(self, tell: Tell) -> None:
        addresses = {person.profile_id: str(person.attributes.get("email", "")) for person in PEOPLE}
        for click in CLICKS:
            await asyncio.sleep(max(0, self._real_us(click.minute) - now_us()) / 1_000_000)
            mail = await first_mail(self._mailbox, addresses[click.profile_id])
            answers = [await unsubscribe(mail) for _ in range(2)]
            tell(
                click.profile_id,
                f"unsubscribes by one click; the answer is {answers[0]}, and to a second click {answers[1]}",
            )

    def _event(self, happening: Happening) -> Event:
        return Event(
            event_id=happening.event_id,
            profile_id=happening.profile_id,
            name=happening.name,
            occur_time=to_timestamp(self._real_us(happening.occur_minute)),
            properties=to_struct(dict(happening.properties)),
        )

    def _real_us(self, minute: float) -> int:
        return self._began_us + round(minute * MINUTE_US / self._speed)

    async def _look(self, show: Show) -> bool:
        """Show what is new on the timelines; whether anything was."""
        timelines = await asyncio.gather(*(self._timeline(profile_id) for profile_id in self._seen))
        news = []
        for profile_id, entries in zip(self._seen, timelines, strict=True):
            fresh = entries[: len(entries) - self._seen[profile_id]]
            self._seen[profile_id] = len(entries)
            news += [(profile_id, entry) for entry in reversed(fresh)]
        for profile_id, entry in sorted(news, key=lambda each: from_timestamp(each[1].record_time)):
            if entry.transition.kind == TransitionKind.TRANSITION_KIND_WAIT_ENDED:
                due_us = from_timestamp(entry.transition.time)
                self._lateness_us.append(from_timestamp(entry.record_time) - due_us)
            show(profile_id, entry)
        return bool(news)

    async def _timeline(self, profile_id: str) -> list[TimelineEntry]:
        request = GetTimelineRequest(profile=f"profiles/{profile_id}")
        call = self._services.evaluator.GetTimeline
        return [each async for each in all_items(call, request, lambda page: page.entries, 0)]

    async def _deliveries(self) -> list[Delivery]:
        call = self._services.activation.ListDeliveries
        return [
            each async for each in all_items(call, ListDeliveriesRequest(), lambda page: page.deliveries, 0)
        ]

    async def _is_settled(self) -> bool:
        """Whether nobody waits, nothing is on its way, and every delivery has its end."""
        call = self._services.evaluator.ListEnrollments
        request = ListEnrollmentsRequest(parent="profiles/-")
        enrollments: list[Enrollment] = [
            each async for each in all_items(call, request, lambda page: page.enrollments, 0)
        ]
        return all(
            each.state != EnrollmentState.ENROLLMENT_STATE_WAITING and not each.pending_activations
            for each in enrollments
        ) and all(is_final(each) for each in await self._deliveries())
