"""Owns the step before a new database's first migration: a role and a schema for each service, the number of buckets.

The images carry it, for those who deploy without the `cairn` command; it does what the first half of `cairn migrate` does.
Needs a login with CREATEROLE that may CREATE in the database. Repeating it changes nothing, and then needs no privilege.
"""

import argparse
import asyncio
import os
import sys

from cairn.postgres.bucket import DEFAULT_BUCKET_COUNT
from cairn.postgres.pool import connect
from cairn.postgres.roles import MAX_BUCKET_COUNT, ensure_database, ensure_roles
from cairn.runtime.errors import StartupError

SERVICES = ("definition", "evaluator", "scheduler", "activation")
DSN = "CAIRN_DSN"


async def prepare(dsn: str, bucket_count: int) -> str:
    """Makes what is missing; returns the line to print. StartupError with what to do when it can't."""
    connection = await connect(dsn, application_name="cairn-prepare", setting=DSN)
    try:
        await ensure_roles(connection, SERVICES)
        buckets = await ensure_database(connection, bucket_count)
    finally:
        await connection.close()
    return f"The database is prepared: {', '.join(SERVICES)}; {buckets} buckets."


def main() -> int:
    """Runs it with the arguments of the process; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=f"Makes a database ready for the services' migrations. {DSN} says where it is.",
        epilog=f"example: {DSN}=postgresql://admin@db.internal/cairn python prepare.py --buckets 256",
    )
    parser.add_argument(
        "--buckets",
        type=int,
        default=DEFAULT_BUCKET_COUNT,
        help=f"buckets of a new database, 1 to {MAX_BUCKET_COUNT}: 4 for one machine of a few cores, 256 for a cluster; "
        "fixed once it is made (default: %(default)s)",
    )
    buckets: int = parser.parse_args().buckets
    try:
        dsn = os.environ.get(DSN, "")
        if not dsn:
            raise StartupError(f"{DSN} is required, as postgresql://user:password@host:5432/database")
        line = asyncio.run(prepare(dsn, buckets))
    except StartupError as error:
        sys.stderr.write(f"prepare: {error}\n")
        return 1
    sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
