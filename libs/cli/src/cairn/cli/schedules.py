"""Owns `cairn schedules`: what happens again and again, and when next; having one happen now."""

import asyncio
from collections.abc import AsyncIterator

import click

from cairn.api.scheduler.v1.scheduler_pb2 import ListSchedulesRequest, RunScheduleRequest, Schedule
from cairn.cli.connect import Services, all_items
from cairn.cli.listing import ListsByDefault, show_list
from cairn.cli.names import resource
from cairn.cli.options import json_option, limit_option, service_options
from cairn.cli.output import clean, print_json, print_note, short_name, show_time
from cairn.runtime.ids import random_id


@click.group(cls=ListsByDefault)
def schedules() -> None:
    """List schedules, and run one now; without a command: list them."""


@schedules.command(
    "list",
    epilog="""\b
Examples:
  cairn schedules
  cairn schedules list --json | jq -r '[.name, .next_time] | @tsv'
""",
)
@limit_option
@json_option
@service_options("scheduler")
def list_schedules(services: Services, limit: int, as_json: bool) -> None:
    """Schedules by name: when each is due next, and when it last was."""

    def items() -> AsyncIterator[Schedule]:
        call = services.scheduler.ListSchedules
        return all_items(call, ListSchedulesRequest(), lambda page: page.schedules, limit)

    show_list(
        services,
        items,
        ("schedule", "cron", "time zone", "next", "last due", "last taken", "if missed"),
        lambda each: (
            short_name(each.name),
            each.cron,
            each.time_zone,
            show_time(each.next_time),
            show_time(each.last_due_time),
            show_time(each.last_fire_time),
            "left out" if each.skip_missed else "late",
        ),
        limit=limit,
        as_json=as_json,
    )


@schedules.command(
    epilog="""\b
Examples:
  cairn schedules run journey.win-back
  cairn schedules run journey.win-back --request-id 2026-11-24-by-hand
"""
)
@click.argument("name")
@click.option(
    "--request-id", default="", help="With the same one again, nothing fires again. [default: a new one]"
)
@json_option
@service_options("scheduler")
def run(services: Services, name: str, request_id: str, as_json: bool) -> None:
    """Fire a schedule now, once, beside its times."""
    request_id = request_id or f"cli-{random_id():x}"

    async def ask() -> None:
        async with services:
            request = RunScheduleRequest(name=resource("schedules", name), request_id=request_id)
            await services.scheduler.RunSchedule(request)

    asyncio.run(ask())
    if as_json:
        print_json({"schedule": short_name(name), "request_id": request_id})
    else:
        print_note(f"{clean(short_name(name))} fires now.")
