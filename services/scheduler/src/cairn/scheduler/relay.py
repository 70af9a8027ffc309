"""Owns the way of due timers to the sink: read ahead, send, write down what it answered.

A timer is forgotten only after the sink took it: whatever fails in between, it fires again. Refuses to judge "due"
by any other clock than Postgres', and to send a second batch of a shard before the first one is answered.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

import grpc
import structlog

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.postgres.pool import Pool, is_unavailable
from cairn.scheduler import metrics, store
from cairn.scheduler.sending import Answers, Sender, is_about_the_batch
from cairn.scheduler.server_clock import ServerClock
from cairn.scheduler.shard import Shard
from cairn.scheduler.timer import Timer

log = structlog.get_logger()

REFUSED_BY_SINK = "The sink answered that it can never act on this timer."

FORGET_SECONDS = 0.1
"""How long rows of timers that were taken may stay, so that one statement deletes many; after a kill these fire again."""

FORGET_COUNT = 1_000
"""How many of them do not wait."""

_DONE = frozenset({pb.TIMER_ANSWER_ACCEPTED, pb.TIMER_ANSWER_STALE})
_ANSWERS: Mapping[int, str] = {
    pb.TIMER_ANSWER_ACCEPTED: "accepted",
    pb.TIMER_ANSWER_STALE: "stale",
    pb.TIMER_ANSWER_RETRY: "retry",
    pb.TIMER_ANSWER_REFUSED: "refused",
}


class Relay:
    """Fires what is due; one for all shards, so that an outage is one warning and not one for each of them."""

    def __init__(self, pool: Pool, sender: Sender, clock: ServerClock) -> None:
        self._pool = pool
        self._sender = sender
        self._clock = clock
        self._forgetting: dict[Shard, asyncio.Task[None]] = {}
        self._postgres_failing = False
        self._sink_failing = False

    async def fire_due(self, shard: Shard, is_ours: Callable[[], bool]) -> None:
        """Fire all that is due in the shard, batch by batch, until nothing is, something fails, or it is not ours.

        While the sink works on a batch, the next timers are read.
        """
        reading: asyncio.Task[None] | None = None
        while is_ours() and not shard.blocked(now_us := self._clock.now_us()):
            batch = shard.take(now_us)
            if reading is None and shard.needs_read(now_us):
                reading = asyncio.create_task(self._read(shard))
            if batch:
                await self._fire(shard, batch)
            elif reading is None:
                return
            if reading is not None and (reading.done() or not batch):
                await reading
                reading = None
        if reading is not None:
            await reading

    async def finish(self, shard: Shard) -> None:
        """Return when the rows of all that the sink took are deleted: the next owner would fire them again."""
        if forgetting := self._forgetting.get(shard):
            await asyncio.wait((forgetting,))

    async def stop(self) -> None:
        """Let go of what could not be deleted; it fires again elsewhere."""
        for forgetting in tuple(self._forgetting.values()):
            forgetting.cancel()

    async def _read(self, shard: Shard) -> None:
        now_us = self._clock.now_us()
        plan = shard.begin_read(now_us)
        try:
            found, next_due_us = await store.read_due(
                self._pool,
                shard.bucket,
                floor_us=plan.floor_us,
                due_by_us=plan.until_us,
                held_keys=plan.held_keys,
                limit=plan.limit,
            )
        except Exception as error:
            shard.read_failed(self._clock.now_us())
            if not is_unavailable(error):
                raise
            self._on_postgres_failure(shard, error)
            return
        self._on_postgres_answer()
        shard.note_read(plan, now_us, found, next_due_us)

    async def _fire(self, shard: Shard, due: Sequence[Timer]) -> None:
        """Send one batch and settle it."""
        try:
            answers = await self._sender.send(due, alone=shard.is_troubled)
        except grpc.aio.AioRpcError as error:
            self._on_sink_failure(shard, due, error.code())
            return
        except Exception:
            shard.failed(self._clock.now_us(), due)
            raise
        self._on_sink_answer()
        shard.answered()
        await self._settle(shard, due, answers)

    async def _settle(self, shard: Shard, due: Sequence[Timer], answers: Answers) -> None:
        now_us = self._clock.now_us()
        done: list[Timer] = []
        refused: list[Timer] = []
        again: list[Timer] = []
        # More answers than timers mean nothing; a timer without one comes again.
        for timer, answer in zip_longest(due, answers[: len(due)]):
            if answer in _DONE:
                done.append(timer)
            elif answer == pb.TIMER_ANSWER_REFUSED:
                refused.append(timer)
            else:
                again.append(timer)
        for timer in done:
            metrics.LATENESS.observe((now_us - timer.due_us) / 1e6)
        for answer, count in Counter(answers[: len(due)]).items():
            metrics.TIMERS_FIRED.labels(_ANSWERS.get(answer, "unanswered")).inc(count)
        shard.settled(done)
        if again:
            shard.retry(again, now_us)
        if refused:
            await self._park(shard, refused)
        await self._forget_soon(shard)

    async def _park(self, shard: Shard, refused: Sequence[Timer]) -> None:
        ids = [timer.timer_id for timer in refused]
        try:
            await store.park_timers(self._pool, shard.bucket, ids, REFUSED_BY_SINK)
        except Exception as error:
            shard.failed(self._clock.now_us(), refused)
            if not is_unavailable(error):
                raise
            self._on_postgres_failure(shard, error)
            return
        shard.parked(refused)
        log.warning("timers_parked", shard=shard.bucket, count=len(refused))

    # Forgetting

    async def _forget_soon(self, shard: Shard) -> None:
        """Have the rows of what was taken deleted, at most so many of them behind."""
        forgetting = self._forgetting.get(shard)
        if forgetting is None:
            forgetting = self._forgetting[shard] = asyncio.create_task(self._forget(shard))
            forgetting.add_done_callback(lambda task: self._forgotten(shard, task))
        elif shard.count_settled >= 4 * FORGET_COUNT:
            await asyncio.wait((forgetting,))

    async def _forget(self, shard: Shard) -> None:
        if shard.count_settled < FORGET_COUNT:
            await asyncio.sleep(FORGET_SECONDS)
        while shard.count_settled:
            if not await self._delete(shard):
                await asyncio.sleep(FORGET_SECONDS * 5)

    def _forgotten(self, shard: Shard, task: asyncio.Task[None]) -> None:
        if self._forgetting.get(shard) is task:
            del self._forgetting[shard]
        if not task.cancelled() and (error := task.exception()):
            log.error("forgetting_failed", shard=shard.bucket, exc_info=error)

    async def _delete(self, shard: Shard) -> bool:
        ids = shard.take_settled()
        if not ids:
            return True
        try:
            await store.delete_timers(self._pool, shard.bucket, ids)
        except BaseException as error:
            shard.settle_again(ids)
            if not isinstance(error, Exception) or not is_unavailable(error):
                raise
            self._on_postgres_failure(shard, error)
            return False
        shard.deleted(ids)
        self._on_postgres_answer()
        return True

    # What failed, and works again

    def _on_sink_failure(self, shard: Shard, due: Sequence[Timer], code: grpc.StatusCode) -> None:
        metrics.SINK_FAILURES.labels(code.name).inc()
        if not self._sink_failing:
            log.warning("sink_failing", shard=shard.bucket, code=code.name)
        self._sink_failing = True
        now_us = self._clock.now_us()
        if is_about_the_batch(code):
            shard.choked(due, now_us)
        else:
            shard.failed(now_us, due)

    def _on_sink_answer(self) -> None:
        if self._sink_failing:
            self._sink_failing = False
            log.info("sink_answers_again")

    def _on_postgres_failure(self, shard: Shard, error: Exception) -> None:
        if not self._postgres_failing:
            log.warning("postgres_unavailable", shard=shard.bucket, error=type(error).__name__)
        self._postgres_failing = True

    def _on_postgres_answer(self) -> None:
        if self._postgres_failing:
            self._postgres_failing = False
            log.info("postgres_answers_again")
