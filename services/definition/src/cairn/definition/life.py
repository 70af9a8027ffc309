"""Owns the life of a published journey: pausing, resuming and ending it, one transaction each.

Refuses to bring an ended journey back, and to change the mode of a pause that lasts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.definition import store, store_lives
from cairn.definition.repeat import Call, M, once
from cairn.definition.store import JourneyRow
from cairn.definition.store_lives import LifeRow, PauseRow
from cairn.postgres.pool import AnyConnection, Pool
from cairn.runtime.clock import format_time
from cairn.runtime.errors import CairnError, not_found

MAX_PAUSES = 10_000
"""Pauses that one journey may have: each process that serves it keeps them all."""

Change = Callable[[LifeRow, int], LifeRow]
"""(a life, now in microseconds) -> the life after it; the same one when there is nothing to change. Raises FAILED_PRECONDITION."""

Outcome = tuple[JourneyRow, int]
"""A journey and the revision that its life has now."""


async def change_life(
    pool: Pool,
    announce: Callable[[int], None],
    journey_id: str,
    change: Change,
    call: Call[Outcome, M],
) -> M:
    """Change the life of a journey, and `announce` the newest revision once it is committed. NOT_FOUND, FAILED_PRECONDITION."""
    committed = 0

    async def act(connection: AnyConnection) -> Outcome:
        nonlocal committed
        row, committed = await _change(connection, journey_id, change)
        return row, committed

    response = await once(pool, call, act)
    announce(committed)
    return response


def paused(mode: str) -> Change:
    """Pauses a live journey."""

    def change(life: LifeRow, now_us: int) -> LifeRow:
        if life.state == "PAUSED":
            last = life.pauses[-1]
            if last.mode == mode:
                return life
            refuse(
                life.journey_id,
                f"is paused in mode {last.mode} since {format_time(last.pause_us)}; resume it before you pause it as {mode}",
            )
        _refuse_ended(life)
        if len(life.pauses) >= MAX_PAUSES:
            refuse(life.journey_id, f"was paused {MAX_PAUSES:,} times, which is the most; end it instead")
        begin = PauseRow(mode, _after(life.pauses, now_us))
        return replace(life, state="PAUSED", pauses=(*life.pauses, begin))

    return change


def resumed(life: LifeRow, now_us: int) -> LifeRow:
    """Resumes a paused journey."""
    _refuse_ended(life)
    return replace(life, state="LIVE", pauses=_closed(life, now_us)) if life.state == "PAUSED" else life


def ended(*, remove: bool) -> Change:
    """Ends a journey; a pause that lasts is over with it. One that drains can still be told to remove who is left in it."""

    def change(life: LifeRow, now_us: int) -> LifeRow:
        if life.end_us is not None:
            return replace(life, removes=True) if remove and not life.removes else life
        pauses = _closed(life, now_us)
        return replace(life, state="ENDED", pauses=pauses, end_us=_after(pauses, now_us), removes=remove)

    return change


def refuse(journey_id: str, why: str) -> NoReturn:
    """Raise FAILED_PRECONDITION: the journey's life does not allow this."""
    name = f"journeys/{journey_id}"
    raise CairnError(ErrorReason.ERROR_REASON_FAILED_PRECONDITION, f"{name} {why}.", resource=name)


async def _change(connection: AnyConnection, journey_id: str, change: Change) -> Outcome:
    row = await store.get_journey(connection, journey_id, lock=True)
    if row is None:
        raise not_found(f"journeys/{journey_id}")
    if row.state == "DRAFT":
        refuse(journey_id, "was never published; there is nothing to pause, to resume or to end")
    life = await store_lives.get_life(connection, journey_id)
    if life is None:
        # Published by a program that knew no lives: it is live since its newest version.
        newest = (await store.get_newest_versions(connection, [journey_id]))[journey_id]
        life = LifeRow(journey_id, "LIVE", (), None, removes=False, revision=newest.revision)
    after = change(life, await store.read_clock(connection))
    if after is life:
        return row, life.revision
    # The last lock to be taken, because every publisher waits for it.
    after = replace(after, revision=await store.take_revisions(connection, 1))
    await store_lives.put_life(connection, after)
    last = after.pauses[-1] if after.state == "PAUSED" else PauseRow("", 0)
    return replace(row, state=after.state, pause_mode=last.mode, pause_us=last.pause_us), after.revision


def _closed(life: LifeRow, now_us: int) -> tuple[PauseRow, ...]:
    """The pauses, the last of them over now if it lasts."""
    if not life.pauses or life.pauses[-1].resume_us is not None:
        return life.pauses
    *before, last = life.pauses
    return (*before, replace(last, resume_us=max(now_us, last.pause_us)))


def _after(pauses: Sequence[PauseRow], now_us: int) -> int:
    """Now, but not before the last pause was over: Postgres' clock may step back, the order of a life's times stays."""
    return max([now_us, *(one.resume_us or one.pause_us for one in pauses[-1:])])


def _refuse_ended(life: LifeRow) -> None:
    if life.end_us is not None:
        refuse(life.journey_id, f"has ended for good, at {format_time(life.end_us)}; create another journey")
