"""Owns what an operator's word sets off where no input comes by itself: a resume lets go on what was held, a removal ends
enrollments.

Each bucket is swept by one replica at a time. What is swept twice changes nothing the second time, and what a sweep could miss,
because a replica heard late of a change, is done at the enrollment's next input.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog

from cairn.evaluator import store
from cairn.evaluator.book import JourneyBook, Removal
from cairn.evaluator.inputs import LifeArrival, Result, Submission
from cairn.evaluator.lane import Lane
from cairn.evaluator.wire import Refused
from cairn.journey.state import LifeInput
from cairn.postgres.identity import try_adopt
from cairn.postgres.pool import Pool

log = structlog.get_logger()

SWEEP_SECONDS = 0.5
_NAMESPACE = "evaluator-sweep"
_ROWS = 500
_FULL_LANE_SECONDS = 0.1
# Without news what is held is looked for only now and then: a replica that heard of a resume late may have left something.
_QUIET_ROUNDS = 60


class Sweeper:
    """Looks every SWEEP_SECONDS for what pauses and ends of journeys have left to do."""

    def __init__(self, pool: Pool, book: JourneyBook, lanes: Sequence[Lane]) -> None:
        self._pool = pool
        self._book = book
        self._lanes = lanes
        self._removed: dict[tuple[int, str], int] = {}
        # Removals that have to come again, with the round in which they may: each reads the whole bucket.
        self._again: dict[tuple[int, str], int] = {}
        self._round = 0
        self._resumed: dict[str, int] = {}
        self._quiet = 0

    async def sweep(self) -> None:
        """One round over all buckets; to be repeated for ever."""
        resumed = self._book.resumed()
        self._quiet += 1
        self._round += 1
        news = resumed != self._resumed or self._quiet >= _QUIET_ROUNDS
        complete = True
        for lane in self._lanes:
            due = [each for each in self._book.removals() if self._is_due(lane.bucket, each)]
            if not due and not (resumed and news):
                continue
            async with try_adopt(self._pool, _NAMESPACE, lane.bucket) as adopted:
                if not adopted:
                    # Another replica is at it; whether it comes to an end is looked at in the next round.
                    complete = False
                    continue
                if due:
                    await self._remove(lane, due)
                if resumed and news:
                    await self._resume(lane, resumed)
        if news and complete:
            self._resumed, self._quiet = resumed, 0

    def _is_due(self, bucket: int, removal: Removal) -> bool:
        place = bucket, removal.journey_id
        return self._removed.get(place, 0) < removal.revision and self._again.get(place, 0) <= self._round

    async def _remove(self, lane: Lane, removals: Sequence[Removal]) -> None:
        done = await store.read_removals(self._pool, lane.bucket)
        for removal in removals:
            journey_id = removal.journey_id
            if done.get(journey_id, 0) < removal.revision:
                told, later = 0, False
                async for profile_ids in self._standing_with(lane.bucket, journey_id):
                    results = await self._tell(lane, profile_ids, journey_id, removal.time_us)
                    told += sum(result is Result.ACTED_ON for result in results)
                    # One that failed is logged and would fail again: only an unknown version is worth another look.
                    later |= Result.LATER in results
                if later:
                    self._again[lane.bucket, journey_id] = self._round + _QUIET_ROUNDS
                    continue
                await store.write_removal(self._pool, lane.bucket, journey_id, removal.revision)
                log.info("enrollments_removed", journey=journey_id, bucket=lane.bucket, profiles=told)
            self._removed[lane.bucket, journey_id] = removal.revision

    async def _resume(self, lane: Lane, resumed: dict[str, int]) -> None:
        after, told = "", 0
        while rows := await store.list_held(self._pool, lane.bucket, after, list(resumed), _ROWS):
            after = rows[-1][0]
            for journey_id in sorted({each for _, held_in in rows for each in held_in} & resumed.keys()):
                held = [profile_id for profile_id, held_in in rows if journey_id in held_in]
                results = await self._tell(lane, held, journey_id, resumed[journey_id])
                told += sum(result is Result.ACTED_ON for result in results)
        if told:
            log.info("enrollments_resumed", bucket=lane.bucket, profiles=told)

    async def _standing_with(self, bucket: int, journey_id: str) -> AsyncIterator[list[str]]:
        after = ""
        while rows := await store.list_profiles(self._pool, bucket, after, journey_id, _ROWS):
            after = rows[-1].profile_id
            yield [row.profile_id for row in rows]

    async def _tell(
        self, lane: Lane, profile_ids: Sequence[str], journey_id: str, time_us: int
    ) -> list[Result | Refused]:
        """Puts the journey's life before profiles, and waits until what follows from it is durable."""
        while lane.is_full:  # noqa: ASYNC110 - the lane empties itself, and tells nobody
            await asyncio.sleep(_FULL_LANE_SECONDS)
        arrivals = [LifeArrival(each, journey_id, LifeInput(time_us)) for each in profile_ids]
        submission = Submission(arrivals, asyncio.get_running_loop().create_future())
        lane.submit(submission)
        return await submission.done
