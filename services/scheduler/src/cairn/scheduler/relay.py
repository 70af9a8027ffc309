"""Owns the way of due timers to the sink: read, send, write down what it answered.

A timer is forgotten only after the sink took it: whatever fails in between, it fires again. Refuses to judge "due"
by any other clock than Postgres', and to send a second batch of a shard before the first one is settled.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import zip_longest
from typing import TYPE_CHECKING

import grpc
import structlog

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.postgres.pool import Pool, is_unavailable
from cairn.runtime.correlation import correlation_id, new_correlation_id
from cairn.scheduler import metrics, store
from cairn.scheduler.server_clock import ServerClock
from cairn.scheduler.shard import Shard
from cairn.scheduler.timer import Timer, waves
from cairn.scheduler.wire import render_timer

if TYPE_CHECKING:
    # Of the asynchronous stub there is only a type: the generated class is the same for both kinds of channel.
    from cairn.api.scheduler.v1.scheduler_pb2_grpc import TimerSinkServiceAsyncStub

log = structlog.get_logger()

REFUSED_BY_SINK = "The sink answered that it can never act on this timer."

_DONE = frozenset({pb.TIMER_ANSWER_ACCEPTED, pb.TIMER_ANSWER_STALE})
_ANSWERS: Mapping[int, str] = {
    pb.TIMER_ANSWER_ACCEPTED: "accepted",
    pb.TIMER_ANSWER_STALE: "stale",
    pb.TIMER_ANSWER_RETRY: "retry",
    pb.TIMER_ANSWER_REFUSED: "refused",
}
# Failures of the sink as a whole. Any other may be the fault of one timer in the batch.
_NOT_ABOUT_THE_BATCH = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)


class Relay:
    """Fires what is due; one for all shards, so that an outage is one warning and not one for each of them."""

    def __init__(
        self, pool: Pool, sink: "TimerSinkServiceAsyncStub", clock: ServerClock, sink_deadline_s: float
    ) -> None:
        self._pool = pool
        self._sink = sink
        self._clock = clock
        self._sink_deadline_s = sink_deadline_s
        self._postgres_failing = False
        self._sink_failing = False

    async def fire_due(self, shard: Shard, is_ours: Callable[[], bool]) -> None:
        """Fire all that is due in the shard, batch by batch, until nothing is, something fails, or it is not ours."""
        while is_ours():
            now_us = self._clock.now_us()
            if shard.blocked(now_us):
                return
            plan = shard.begin_read(now_us)
            try:
                due, next_due_us = await store.read_due(
                    self._pool,
                    shard.bucket,
                    floor_us=plan.floor_us,
                    due_by_us=now_us,
                    held_keys=plan.held_keys,
                    limit=plan.limit,
                )
            except Exception as error:
                if not is_unavailable(error):
                    raise
                self._on_postgres_failure(shard, error)
                return
            self._on_postgres_answer()
            shard.note_read(plan, now_us, due, next_due_us)
            if not await self._fire_in_waves(shard, due, is_ours) or len(due) < plan.limit:
                return

    async def _fire_in_waves(self, shard: Shard, due: Sequence[Timer], is_ours: Callable[[], bool]) -> bool:
        """Send what was read, one timer of a key at a time; whether to go on at once."""
        waiting: set[str] = set()
        for wave in waves(due):
            batch = [timer for timer in wave if timer.key not in waiting] if waiting else wave
            if not batch:
                continue
            keys = await self._fire(shard, batch) if is_ours() else None
            if keys is None:
                return False
            waiting |= keys
        return True

    async def _fire(self, shard: Shard, due: Sequence[Timer]) -> Set[str] | None:
        """Send one batch and settle it; the keys that wait from now on, None when the whole shard does."""
        correlation_id.set(new_correlation_id())
        request = pb.FireTimersRequest(timers=[render_timer(timer) for timer in due])
        try:
            response = await self._sink.FireTimers(request, timeout=self._sink_deadline_s)
        except grpc.aio.AioRpcError as error:
            return self._on_sink_failure(shard, due, error.code())
        self._on_sink_answer()
        shard.answered()
        return await self._settle(shard, due, response.answers)

    async def _settle(self, shard: Shard, due: Sequence[Timer], answers: Sequence[int]) -> Set[str] | None:
        now_us = self._clock.now_us()
        done: list[Timer] = []
        refused: list[Timer] = []
        again: list[Timer] = []
        # More answers than timers mean nothing; a timer without one comes again.
        for timer, answer in zip_longest(due, answers[: len(due)]):
            if answer in _DONE:
                done.append(timer)
                metrics.LATENESS.observe((now_us - timer.due_us) / 1e6)
            elif answer == pb.TIMER_ANSWER_REFUSED:
                refused.append(timer)
            else:
                again.append(timer)
        for answer, count in Counter(answers[: len(due)]).items():
            metrics.TIMERS_FIRED.labels(_ANSWERS.get(answer, "unanswered")).inc(count)
        shard.settled(done)
        shard.settled(refused)
        shard.retry(again, now_us)
        try:
            if done:
                await store.delete_timers(self._pool, shard.bucket, [timer.timer_id for timer in done])
            if refused:
                ids = [timer.timer_id for timer in refused]
                await store.park_timers(self._pool, shard.bucket, ids, REFUSED_BY_SINK)
                log.warning("timers_parked", shard=shard.bucket, count=len(refused))
        except Exception as error:
            if not is_unavailable(error):
                raise
            self._on_postgres_failure(shard, error)
            return None
        return {timer.key for timer in again}

    def _on_sink_failure(self, shard: Shard, due: Sequence[Timer], code: grpc.StatusCode) -> Set[str] | None:
        metrics.SINK_FAILURES.labels(code.name).inc()
        if not self._sink_failing:
            log.warning("sink_failing", shard=shard.bucket, code=code.name)
        self._sink_failing = True
        now_us = self._clock.now_us()
        if code in _NOT_ABOUT_THE_BATCH:
            shard.failed(now_us)
            return None
        shard.choked(due, now_us)
        return {due[0].key} if len(due) == 1 else None

    def _on_sink_answer(self) -> None:
        if self._sink_failing:
            self._sink_failing = False
            log.info("sink_answers_again")

    def _on_postgres_failure(self, shard: Shard, error: Exception) -> None:
        if not self._postgres_failing:
            log.warning("postgres_unavailable", shard=shard.bucket, error=type(error).__name__)
        self._postgres_failing = True
        shard.failed(self._clock.now_us())

    def _on_postgres_answer(self) -> None:
        if self._postgres_failing:
            self._postgres_failing = False
            log.info("postgres_answers_again")
