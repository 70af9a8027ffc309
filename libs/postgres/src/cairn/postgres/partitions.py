"""Owns day partitions: made before they are needed, dropped whole instead of deleting rows.

A table is partitioned by range of one `timestamptz` or `date` column; a partition is one UTC day. Refuses to touch
children whose names it did not give.
"""

import re
from datetime import date, timedelta

import asyncpg
import structlog

from cairn.postgres.locks import lock_key
from cairn.postgres.names import quoted
from cairn.postgres.pool import AnyConnection

log = structlog.get_logger()

_SUFFIX = re.compile(r"_p([0-9]{4})([0-9]{2})([0-9]{2})")

_CHILDREN = """
SELECT child.relname::text AS name
FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
WHERE inhparent = $1::text::regclass
"""
_LOCK = "SELECT pg_advisory_xact_lock($1)"
# The bounds are times with a zone; a date column takes their day.
_CREATE = "CREATE TABLE {partition} PARTITION OF {table} FOR VALUES FROM ('{first} 00:00:00+00') TO ('{end} 00:00:00+00')"
_DROP = "DROP TABLE {partition}"
# A new child and a drop stop all use of the table while they wait for the transactions that are reading it.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"


async def ensure_partitions(connection: AnyConnection, table: str, first_day: date, days: int) -> list[str]:
    """Make the partitions of `days` days from `first_day` that are missing; return their names.

    `table` is a plain name, or one with its schema. Several callers at once are harmless. The names end in _pYYYYMMDD.
    A table that somebody reads for long is not waited for: LockNotAvailableError after 3 seconds, for a later try.
    """
    wanted = [first_day + timedelta(days=offset) for offset in range(days)]
    if not _missing(table, wanted, await _children(connection, table)):
        return []
    async with connection.transaction():
        await connection.execute(_LOCK_TIMEOUT)
        await connection.execute(_LOCK, lock_key("partitions", table))
        missing = _missing(table, wanted, await _children(connection, table))
        for day in missing:
            await connection.execute(
                _CREATE.format(
                    partition=quoted(partition_name(table, day)),
                    table=quoted(table),
                    first=day.isoformat(),
                    end=(day + timedelta(days=1)).isoformat(),
                )
            )
    return [_bare(partition_name(table, day)) for day in missing]


async def drop_partitions(connection: AnyConnection, table: str, before: date) -> list[str]:
    """Drop the partitions of the days before `before`, oldest first, each in a transaction; return their names.

    A partition that is in use for longer than 3 seconds stays, with those after it, for the next call.
    """
    schema, dot, _ = table.rpartition(".")
    dropped: list[str] = []
    for name in sorted(await _children(connection, table)):
        day = _day_of(table, name)
        if day is None or day >= before:
            continue
        try:
            async with connection.transaction():
                await connection.execute(_LOCK_TIMEOUT)
                # Postgres itself does not bear two who drop one partition at once: an internal error, now and then.
                await connection.execute(_LOCK, lock_key("partitions", table))
                await connection.execute(_DROP.format(partition=quoted(f"{schema}{dot}{name}")))
        except asyncpg.LockNotAvailableError:
            log.info("partition_in_use", partition=name)
            break
        except asyncpg.UndefinedTableError:
            continue  # another caller was faster
        dropped.append(name)
    return dropped


def partition_name(table: str, day: date) -> str:
    """The name, with the schema if `table` has it, of the partition that holds a day."""
    return f"{table}_p{day:%Y%m%d}"


async def _children(connection: AnyConnection, table: str) -> set[str]:
    return {row["name"] for row in await connection.fetch(_CHILDREN, quoted(table))}


def _missing(table: str, wanted: list[date], children: set[str]) -> list[date]:
    return [day for day in wanted if _bare(partition_name(table, day)) not in children]


def _day_of(table: str, name: str) -> date | None:
    bare = _bare(table)
    matched = _SUFFIX.fullmatch(name.removeprefix(bare)) if name.startswith(bare) else None
    return date(int(matched[1]), int(matched[2]), int(matched[3])) if matched else None


def _bare(name: str) -> str:
    return name.rpartition(".")[2]
