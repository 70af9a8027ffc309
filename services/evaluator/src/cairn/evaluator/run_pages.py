"""Owns the way of a run through the profiles of a bucket: page by page, SQL deciding who is worth a look."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import asyncpg
import structlog

from cairn.evaluator import store_runs
from cairn.evaluator.run_scan import EVERYBODY, scan_of
from cairn.evaluator.store import ProfileRow
from cairn.journey.live import LiveJourney
from cairn.postgres.pool import Pool

log = structlog.get_logger()

STEP: Final = 20_000
"""Profiles of a page, at most."""
MOST_FOUND: Final = 500
"""Profiles of a page that are worth a look, at most: they are in memory together, and go through their lane together."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some profiles in order of their ids, up to `until`: how many there are, and those that the run may move. `is_last` says that there are
    no more."""

    until: str
    seen: int
    rows: list[ProfileRow]
    is_last: bool


class Finder:
    """Makes the statement that finds whom a run can move, from the journey as it is served: again when that has changed."""

    def __init__(self, journey: Callable[[], LiveJourney | None]) -> None:
        self._journey = journey
        self._made_of: LiveJourney | None = None
        self._statement = ""

    def statement(self) -> str:
        """The statement."""
        journey = self._journey()
        if journey is not None and journey is not self._made_of:
            self._made_of, self._statement = journey, store_runs.find_statement(scan_of(journey))
        return self._statement


_EVERYBODY: Final = store_runs.find_statement(EVERYBODY)
# What a statement over profiles fails with because of one of them: a text that is not as we write it, or beyond what Postgres takes.
_UNREADABLE: Final = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)


class Pages:
    """The pages of a bucket after a profile, one after the other. `gate` bounds how many statements over profiles run at once."""

    def __init__(
        self,
        pool: Pool,
        gate: asyncio.Semaphore,
        finder: Finder,
        bucket: int,
        run_us: int,
        after: str,
        most: int = MOST_FOUND,
    ) -> None:
        self._pool = pool
        self._gate = gate
        self._finder = finder
        self._bucket = bucket
        self._run_us = run_us
        self._after = after
        self._most = most
        # The end of the step that was taken last, how many profiles are left up to it, and whether it is the last.
        self._end = after
        self._left = 0
        self._is_last_step = False
        self._is_over = False

    async def next(self) -> Page | None:
        """The next page, None after the last."""
        if self._is_over:
            return None
        async with self._gate:
            if self._after >= self._end:
                self._left, self._end = await store_runs.step(self._pool, self._bucket, self._after, STEP)
                self._is_last_step = self._left < STEP
            if not self._left:
                self._is_over = True
                return Page(self._after, 0, [], True)
            rows = await self._find()
            if len(rows) < self._most:
                until, seen = self._end, self._left
            else:
                until = rows[-1].profile_id
                seen = await store_runs.count_between(self._pool, self._bucket, self._after, until)
        self._after = until
        # Some may have come or gone since they were counted.
        self._left = max(self._left - seen, 0 if until >= self._end else 1)
        self._is_over = self._is_last_step and until >= self._end
        return Page(until, seen, rows, self._is_over)

    async def _find(self) -> list[ProfileRow]:
        place = self._bucket, self._after, self._end, self._run_us, self._most
        try:
            return await store_runs.find(self._pool, self._finder.statement(), *place)
        except _UNREADABLE as error:
            # One of them can't be read by SQL: then all of them are for the machine, which takes each by itself.
            log.warning("page_not_read", bucket=self._bucket, error=type(error).__name__)
            return await store_runs.find(self._pool, _EVERYBODY, *place)


class Ahead:
    """The pages in `async with` and `async for`: the next one is read while one is worked on."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._reading: asyncio.Task[Page | None] | None = None

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._pages.next())
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Page:
        assert self._reading is not None
        page = await self._reading
        if page is None:
            raise StopAsyncIteration
        self._reading = asyncio.create_task(self._pages.next())
        return page

    async def __aexit__(self, *_: object) -> None:
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.wait((self._reading,))
        if not self._reading.cancelled():
            # Of a page that nobody wants any more nobody wants to know why it could not be read.
            self._reading.exception()
