"""Owns the execution of runs: any Evaluator goes on with a run that nobody goes on with, bucket by bucket, page by page.

What a page did is durable before the page counts as done. A run that is cut off anywhere is taken up by another replica, or by this one
again, which looks once more at the pages that were under way: nobody is moved twice, as each standing knows the last run that moved it.
Real-time inputs share the lanes, so that of a run no more than one portion waits in each.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final

import structlog

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.evaluator import metrics, store_runs
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.inputs import Result, RunArrival, Submission
from cairn.evaluator.lane import Lane
from cairn.evaluator.run_locks import RunLocks
from cairn.evaluator.run_pace import Pace
from cairn.evaluator.run_pages import MOST_FOUND, Ahead, Finder, Page, Pages
from cairn.evaluator.store import ProfileRow
from cairn.evaluator.store_runs import BucketRow, Counts, OpenRun, RunState
from cairn.journey.state import RunInput
from cairn.postgres.pool import Connection, Pool, is_unavailable
from cairn.runtime.clock import now_us
from cairn.runtime.errors import CairnError

log = structlog.get_logger()

_IDLE_SECONDS: Final = 1.0
_BUSY_SECONDS: Final = 0.4
_MOST_RUNS: Final = 8
"""Runs that one process goes on with at once; more wait."""
_MOST_BUCKETS: Final = 8
"""Buckets of a run that are worked on at once."""
_FEW: Final = 100
"""Inputs of others that may wait in a lane while a run puts something into it, and people that it then puts there at most."""
_TURN_SECONDS: Final = 0.01
_LONGEST_TURN_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 1.0
_MOST_TRIES: Final = 5


class _Left(Exception):  # noqa: N818 - an outcome, not a mistake
    """The run does not go on here: paused, canceled, taken by another, or this process stops."""


class _Stuck(Exception):  # noqa: N818 - an outcome, not a mistake
    """The run can't go on, and never will; the text tells why."""


class Runner:
    """A component that goes on with runs. `scans` is how many statements over many profiles may run at once."""

    name = "runner"

    def __init__(
        self,
        pool: Pool,
        connect: Callable[[], Awaitable[Connection]],
        book: JourneyBook,
        lanes: Sequence[Lane],
        scans: int,
    ) -> None:
        self._pool = pool
        self._book = book
        self._lanes = lanes
        self._locks = RunLocks(connect)
        self._gate = asyncio.Semaphore(scans)
        self._wake = asyncio.Event()
        self._stopping = False
        self._executions: dict[tuple[str, str], _Execution] = {}
        # How often each run has failed on a defect without having moved on.
        self._failures: dict[tuple[str, str], int] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def gate(self) -> asyncio.Semaphore:
        """What bounds how many statements over many profiles run at once."""
        return self._gate

    def wake(self) -> None:
        """Has it look for runs at once."""
        self._wake.set()

    async def start(self) -> None:
        """Begins to look for runs."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def drain(self) -> None:
        """Ends with the portions that are under way; another replica goes on from there."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        for execution in self._executions.values():
            execution.stop()
        await asyncio.gather(*(each.task for each in self._executions.values()), return_exceptions=True)

    async def stop(self) -> None:
        tasks = [each.task for each in self._executions.values()]
        if self._task is not None:
            tasks.append(self._task)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._locks.close()

    async def _run(self) -> None:
        failing = False
        while not self._stopping:
            self._wake.clear()
            try:
                await self._look()
                failing = False
            except Exception as error:
                if not failing and is_unavailable(error):
                    log.warning("runs_without_postgres", error=type(error).__name__)
                elif not failing:
                    log.error("runs_not_read", exc_info=error)
                failing = True
            try:
                async with asyncio.timeout(_BUSY_SECONDS if self._executions else _IDLE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        """One look at the runs that are not over: stops those that shall not go on, takes up those that nobody goes on with."""
        await self._locks.check()
        found = await store_runs.list_open(self._pool)
        running = {(each.journey_id, each.run_id): each for each in found if each.state == RunState.RUNNING}
        metrics.RUNS.labels("running").set(len(running))
        metrics.RUNS.labels("paused").set(len(found) - len(running))
        for key, execution in list(self._executions.items()):
            if execution.task.done():
                del self._executions[key]
            elif key not in running:
                execution.stop()
        for key, run in sorted(running.items(), key=lambda item: item[1].run_us):
            if key in self._executions or len(self._executions) >= _MOST_RUNS or self._stopping:
                continue
            journey = self._book.get(run.journey_id)
            # One that was begun by a replica that knows more waits until this one knows as much.
            if journey is not None and max(journey.plans) >= run.version and await self._locks.take(key):
                is_ours = partial(self._locks.holds, key)
                execution = _Execution(run, self._pool, self._book, self._lanes, self._gate, is_ours)
                self._executions[key] = execution
                execution.task = asyncio.create_task(self._execute(key, execution), name=f"run-{run.run_id}")

    async def _execute(self, key: tuple[str, str], execution: "_Execution") -> None:
        try:
            if problem := await self._problem_of(key, execution):
                await store_runs.end_run(self._pool, *key, RunState.FAILED, now_us(), problem)
        except Exception as error:  # noqa: BLE001 - what is still running is taken up again
            log.warning("run_waits", journey=key[0], run=key[1], error=type(error).__name__)
        finally:
            await self._locks.release(key)
            self._wake.set()

    async def _problem_of(self, key: tuple[str, str], execution: "_Execution") -> str:
        """Goes on with a run; why it can never go on, "" when it is over, or goes on later or elsewhere."""
        try:
            await execution.execute()
        except _Left:
            pass
        except _Stuck as stuck:
            log.warning("run_ended_early", journey=key[0], run=key[1], why=str(stuck))
            return str(stuck)
        except Exception as error:
            if self._is_hopeless(key, execution, error):
                log.error("run_failed", journey=key[0], run=key[1], exc_info=error)
                return "It failed on a defect of ours; the Evaluator's log tells more."
            log.warning("run_waits", journey=key[0], run=key[1], error=type(error).__name__)
            # It is taken up again, here or elsewhere, but not at once.
            await asyncio.sleep(0 if self._stopping else _RETRY_SECONDS)
        else:
            self._failures.pop(key, None)
        return ""

    def _is_hopeless(self, key: tuple[str, str], execution: "_Execution", error: Exception) -> bool:
        """Whether a failure is no use to be tried again: a defect is given some tries, as somebody else's input may have been in the batch."""
        if is_unavailable(error):
            return False
        if isinstance(error, CairnError) and error.reason != ErrorReason.ERROR_REASON_INTERNAL:
            return False
        self._failures[key] = 1 if execution.has_moved_on else self._failures.get(key, 0) + 1
        return self._failures[key] >= _MOST_TRIES


class _Execution:
    """One run as long as this process goes on with it. `is_ours` tells whether it still should."""

    task: asyncio.Task[None]
    has_moved_on = False
    """Whether any page was done here."""

    def __init__(
        self,
        run: OpenRun,
        pool: Pool,
        book: JourneyBook,
        lanes: Sequence[Lane],
        gate: asyncio.Semaphore,
        is_ours: Callable[[], bool],
    ) -> None:
        self._run = run
        self._pool = pool
        self._book = book
        self._lanes = lanes
        self._gate = gate
        self._is_ours = is_ours
        self._stopped = asyncio.Event()
        self._input = RunInput(run.run_us, run.run_id)
        journey = book.get(run.journey_id)
        assert journey is not None
        rate = journey.newest.rate
        self._pace = Pace(rate, MOST_FOUND)
        self._workers = min(_MOST_BUCKETS, len(lanes))
        # At a rate small pages: each counts as done only when all of it has gone.
        self._most_found = max(1, self._pace.most // self._workers) if rate else MOST_FOUND

    def stop(self) -> None:
        """Has it end with the portions that are under way."""
        self._stopped.set()

    async def execute(self) -> None:
        """Goes on with the run until it is over, or until it is stopped. Raises _Left, _Stuck, and what stood in the way."""
        run = self._run
        place = run.journey_id, run.run_id
        if not await store_runs.take_up(self._pool, *place, now_us()):
            raise _Left
        log.info("run_taken_up", journey=run.journey_id, run=run.run_id)
        known = await store_runs.read_buckets(self._pool, *place)
        buckets = [lane.bucket for lane in self._lanes]
        todo = iter([each for each in buckets if each not in known or not known[each].done])
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work(todo, known))
        except ExceptionGroup as errors:
            raise _worst(errors) from None
        if await store_runs.end_run(self._pool, *place, RunState.DONE, now_us()):
            log.info("run_done", journey=run.journey_id, run=run.run_id)

    async def _work(self, todo: Iterator[int], known: dict[int, BucketRow]) -> None:
        for bucket in todo:
            await self._bucket(known.get(bucket) or BucketRow(bucket, "", False), bucket not in known)

    async def _bucket(self, row: BucketRow, is_new: bool) -> None:
        """Goes through a bucket. The next page is read while the lane works on one."""
        run, lane = self._run, self._lanes[row.bucket]
        place = run.journey_id, run.run_id
        if is_new:
            await store_runs.begin_bucket(self._pool, row.bucket, *place)
        finder = Finder(lambda: self._book.get(run.journey_id))
        pages = Pages(self._pool, self._gate, finder, row.bucket, run.run_us, row.after, self._most_found)
        async with Ahead(pages) as ahead:
            async for page in ahead:
                self._go_on()
                counts = await self._page(lane, page)
                if not await store_runs.move_on(self._pool, row, *place, page.until, page.is_last, counts):
                    # Another has gone on from here: the lock was lost without our knowing.
                    raise _Left
                self.has_moved_on = True
                metrics.RUN_PROFILES.inc(counts.seen)
                metrics.RUN_MOVES.inc(counts.moved)
                row = BucketRow(row.bucket, page.until, page.is_last)

    def _go_on(self) -> None:
        """Raises _Left or _Stuck when the run does not go on here."""
        if self._stopped.is_set() or not self._is_ours():
            raise _Left
        journey = self._book.get(self._run.journey_id)
        if journey is not None and journey.end_us is not None:
            raise _Stuck("The journey has ended.")

    async def _page(self, lane: Lane, page: Page) -> Counts:
        """Puts a page's profiles before the machine, at the run's pace; what came of them, once it is durable."""
        counts = Counts(seen=page.seen)
        start = 0
        while start < len(page.rows):
            most = await self._turn(lane)
            count = self._pace.take(min(len(page.rows) - start, most))
            if not count:
                await self._pace.wait(self._stopped)
                self._go_on()
                continue
            activated = await self._portion(lane, page.rows[start : start + count], counts)
            self._pace.settle(count, activated)
            start += count
            if start < len(page.rows):
                self._go_on()
        return counts

    async def _turn(self, lane: Lane) -> int:
        """Lets others go first, as long as many of them wait, but not for ever; how many may go then."""
        waited = 0.0
        while lane.urgent >= _FEW and (waited < _LONGEST_TURN_SECONDS or lane.is_full):
            await asyncio.sleep(_TURN_SECONDS)
            waited += _TURN_SECONDS
            self._go_on()
        return _FEW if lane.urgent else MOST_FOUND

    async def _portion(self, lane: Lane, rows: Sequence[ProfileRow], counts: Counts) -> int:
        """Puts some profiles before the machine; how many activations that asked for."""
        arrivals = [RunArrival(row.profile_id, self._run.journey_id, self._input, row) for row in rows]
        submission = Submission(arrivals, asyncio.get_running_loop().create_future())
        lane.submit(submission)
        results = await submission.done
        if Result.LATER in results:
            # The journeys are read again meanwhile; all of the page comes again, which changes nothing for those who were moved.
            raise CairnError(ErrorReason.ERROR_REASON_NOT_READY, "A journey's version is not known here yet.")
        activated = 0
        for arrival, result in zip(arrivals, results, strict=True):
            did = arrival.did
            if did is not None:
                counts.moved += 1
                counts.entered += did.entered
                counts.activated += did.activations
                # What was asked for when the page came before is not asked for again.
                activated += did.activations if result is Result.ACTED_ON else 0
            elif result is Result.FAILED:
                counts.failed += 1
        return activated


def _worst(errors: ExceptionGroup[Exception]) -> Exception:
    """The one of several failures that says most: leaving is what the others do when one has failed."""
    found: list[Exception] = []
    for error in errors.exceptions:
        found.append(_worst(error) if isinstance(error, ExceptionGroup) else error)
    return min(found, key=lambda error: (isinstance(error, _Left), not isinstance(error, _Stuck)))
