"""Owns making a database ready: roles, the database row, every service's migrations; and `cairn migrate`."""

import asyncio
from dataclasses import dataclass

import click

from cairn.cli.options import json_option
from cairn.cli.output import print_json, print_note, print_table
from cairn.postgres.bucket import DEFAULT_BUCKET_COUNT

SERVICES = ("definition", "evaluator", "scheduler", "activation")
"""The services, in the order in which they are listed everywhere."""

_APPLICATION = "cairn-migrate"
_STATEMENT_SECONDS = 3600.0  # a migration may rewrite a large table


@dataclass(frozen=True, slots=True)
class Migrated:
    """One service's schema after a migration: the files applied just now, and the version it is at."""

    service: str
    applied: tuple[str, ...]
    version: int


async def prepare_database(dsn: str, bucket_count: int = DEFAULT_BUCKET_COUNT) -> tuple[int, list[Migrated]]:
    """Make roles, schemas and the database row, then apply what is missing of every service's migrations.

    Returns the number of buckets that the database has (fixed when it was made, whatever is asked later) and what
    was done. Idempotent; several at once are harmless. Raises StartupError with one line that says what is wrong.
    """
    from cairn.postgres.migrations import check_schema, load_migrations
    from cairn.postgres.migrations import migrate as apply_missing
    from cairn.postgres.pool import connect
    from cairn.postgres.roles import ensure_database, ensure_roles, role_of

    admin = await connect(dsn, application_name=_APPLICATION, setting="--dsn")
    try:
        await ensure_roles(admin, SERVICES)
        bucket_count = await ensure_database(admin, bucket_count)
    finally:
        await admin.close()
    done = []
    for service in SERVICES:
        migrations = load_migrations(f"cairn.{service}")
        connection = await connect(
            dsn,
            role=role_of(service),
            schema=service,
            application_name=_APPLICATION,
            command_timeout_s=_STATEMENT_SECONDS,
            setting="--dsn",
        )
        try:
            applied = await apply_missing(connection, service, migrations)
            await check_schema(connection, service, migrations)
        finally:
            await connection.close()
        done.append(Migrated(service, tuple(each.file for each in applied), migrations[-1].version))
    return bucket_count, done


@click.command(
    epilog="""\b
Examples:
  cairn migrate --dsn postgresql://admin@db.internal/cairn
  cairn migrate --dsn postgresql://admin@db.internal/cairn --buckets 256
"""
)
@click.option(
    "--dsn", envvar="CAIRN_DSN", required=True, help="Address of the Postgres database. [env: CAIRN_DSN]"
)
@click.option(
    "--buckets",
    type=click.IntRange(1, 1024),
    default=DEFAULT_BUCKET_COUNT,
    show_default=True,
    help="How many buckets a new database has: 4 for one machine of a few cores, 256 for a cluster. Fixed once it is made.",
)
@json_option
def migrate(dsn: str, buckets: int, as_json: bool) -> None:
    """Make a database ready: roles, schemas, and the migrations of all four services.

    Safe to repeat. The login of --dsn has to be allowed to create roles.
    """
    bucket_count, done = asyncio.run(prepare_database(dsn, buckets))
    if as_json:
        for each in done:
            print_json({"service": each.service, "applied": list(each.applied), "version": each.version})
        return
    print_table(
        ("service", "applied now", "version"),
        [
            (each.service, ", ".join(each.applied) or "nothing was missing", str(each.version))
            for each in done
        ],
    )
    if bucket_count != buckets:
        print_note(
            f"The database has {bucket_count} buckets since it was made; --buckets {buckets} changes nothing."
        )
