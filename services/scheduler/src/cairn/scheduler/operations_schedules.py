"""Owns what the calls about schedules do: one statement each, durable when answered."""

from typing import Protocol

from cairn.postgres.pool import Pool, translate_errors
from cairn.runtime.errors import not_found
from cairn.scheduler import store_schedules as store
from cairn.scheduler.schedule import Schedule, StoredSchedule, resource_name
from cairn.scheduler.server_clock import ServerClock


class OwnAlarm(Protocol):
    """The alarm of the schedules, if this replica is the one that fires them."""

    def notice(self, due_us: int) -> None:
        """Something is due then that was not known: move the alarm forward."""


class Schedules:
    """The operations on schedules; one object for all calls. Another replica's alarm finds what was put by its sweep."""

    def __init__(self, pool: Pool, alarm: OwnAlarm, clock: ServerClock) -> None:
        self._pool = pool
        self._alarm = alarm
        self._clock = clock

    def now_us(self) -> int:
        """Now by Postgres' clock, by which "due" is judged."""
        return self._clock.now_us()

    async def put(self, schedule: Schedule, now_us: int, next_due_us: int) -> StoredSchedule:
        """Make a schedule or change it; `next_due_us` is its first time after `now_us`."""
        with translate_errors():
            kept = await store.put_schedule(self._pool, schedule, now_us, next_due_us)
        if kept.next_due_us is not None:
            self._alarm.notice(kept.next_due_us)
        return kept

    async def get(self, schedule_id: str) -> StoredSchedule:
        """One schedule; NOT_FOUND."""
        with translate_errors():
            found = await store.read_schedule(self._pool, schedule_id)
        if found is None:
            raise not_found(resource_name(schedule_id))
        return found

    async def list_page(self, after: str, limit: int) -> list[StoredSchedule]:
        """The first `limit` schedules behind `after`, in order of their ids."""
        with translate_errors():
            return await store.list_schedules(self._pool, after, limit)

    async def delete(self, schedule_id: str) -> None:
        """Forget a schedule. A call to the sink that is under way may still arrive."""
        with translate_errors():
            await store.delete_schedule(self._pool, schedule_id)

    async def run(self, schedule_id: str, request_id: str) -> None:
        """Have a schedule fired now, once for each request id; NOT_FOUND."""
        now_us = self._clock.now_us()
        with translate_errors():
            is_new = await store.insert_request(self._pool, schedule_id, request_id, now_us)
        if is_new:
            self._alarm.notice(now_us)
        else:
            await self.get(schedule_id)
