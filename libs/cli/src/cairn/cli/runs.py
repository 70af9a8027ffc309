"""Owns `cairn runs`: the runs of batch journeys, and how one is paused, resumed and canceled."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import click

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.cli.connect import Services, all_items
from cairn.cli.failures import CommandError
from cairn.cli.listing import ListsByDefault, show_facts, show_list
from cairn.cli.names import resource, word
from cairn.cli.options import json_option, limit_option, service_options
from cairn.cli.output import print_message, print_note, short_name, show_time, state_text
from cairn.cli.run import progress_text, run_text
from cairn.runtime.clock import from_timestamp

_COLUMNS = ("run", "state", "began", "seconds", "by", "profiles", "moved", "entered", "activations")


@click.group(cls=ListsByDefault)
def runs() -> None:
    """Runs of batch journeys: list, show, pause, resume, cancel; without a command: list them. `cairn run` begins one.

    A run is named as lists show it, or by its journey alone: then the newest is meant.
    """


@runs.command(
    "list",
    epilog="""\b
Examples:
  cairn runs list
  cairn runs list --journey win-back
  cairn runs list --json | jq -r .name
""",
)
@click.option("--journey", default="", help="Only of this journey.")
@limit_option
@json_option
@service_options("evaluator")
def list_runs(services: Services, journey: str, limit: int, as_json: bool) -> None:
    """Runs, the newest first."""

    def items() -> AsyncIterator[pb.Run]:
        request = pb.ListRunsRequest(parent=resource("journeys", journey or "-"))
        return all_items(services.evaluator.ListRuns, request, lambda page: page.runs, limit)

    show_list(
        services,
        items,
        _COLUMNS,
        lambda each: (
            run_text(each),
            state_text(word(pb.RunState, each.state)),
            show_time(each.run_time),
            _seconds(each),
            each.cause,
            f"{each.progress.seen:,} of {each.progress.profiles:,}",
            f"{each.progress.moved:,}",
            f"{each.progress.entered:,}",
            f"{each.progress.activated:,}",
        ),
        limit=limit,
        as_json=as_json,
        whole={"run"},
    )


@runs.command(
    epilog="""\b
Examples:
  cairn runs show win-back
  cairn runs show win-back/20261124-060000-3f2a9c --json
"""
)
@click.argument("run")
@json_option
@service_options("evaluator")
def show(services: Services, run: str, as_json: bool) -> None:
    """One run, and how far it is."""

    async def fetch() -> pb.Run:
        async with services:
            name = await _name_of(services, run)
            return (await services.evaluator.GetRun(pb.GetRunRequest(name=name))).run

    found = asyncio.run(fetch())
    if as_json:
        print_message(found)
        return
    done = found.progress
    left = f"{done.remaining.ToSeconds():,} s" if done.HasField("remaining") else ""
    show_facts(
        run_text(found),
        (
            ("version", short_name(found.journey_version)),
            ("state", state_text(word(pb.RunState, found.state))),
            ("why", found.problem),
            ("began by", found.cause),
            ("began", show_time(found.run_time)),
            ("ended", show_time(found.end_time)),
            ("done", progress_text(found)),
            ("rate", f"{done.profiles_per_second:,.0f} profiles/s" if done.profiles_per_second else ""),
            ("remaining", left),
        ),
    )


@runs.command(
    epilog="""\b
Examples:
  cairn runs pause win-back
"""
)
@click.argument("run")
@json_option
@service_options("evaluator")
def pause(services: Services, run: str, as_json: bool) -> None:
    """Have a run stop where it is, within a second, until it is resumed."""
    _act(services, run, lambda name: services.evaluator.PauseRun(pb.PauseRunRequest(name=name)), as_json)


@runs.command(
    epilog="""\b
Examples:
  cairn runs resume win-back
"""
)
@click.argument("run")
@json_option
@service_options("evaluator")
def resume(services: Services, run: str, as_json: bool) -> None:
    """Have a paused run go on from where it stopped."""
    _act(services, run, lambda name: services.evaluator.ResumeRun(pb.ResumeRunRequest(name=name)), as_json)


@runs.command(
    epilog="""\b
Examples:
  cairn runs cancel win-back
  cairn runs cancel win-back/20261124-060000-3f2a9c
"""
)
@click.argument("run")
@json_option
@service_options("evaluator")
def cancel(services: Services, run: str, as_json: bool) -> None:
    """End a run where it is, within a second: what it did stays done."""
    _act(services, run, lambda name: services.evaluator.CancelRun(pb.CancelRunRequest(name=name)), as_json)


def _act(services: Services, run: str, call: Callable[[str], Awaitable[Any]], as_json: bool) -> None:
    async def act() -> pb.Run:
        async with services:
            changed: pb.Run = (await call(await _name_of(services, run))).run
            return changed

    found = asyncio.run(act())
    if as_json:
        print_message(found)
    else:
        print_note(f"{run_text(found)} {word(pb.RunState, found.state)}: {progress_text(found)}.")


async def _name_of(services: Services, run: str) -> str:
    """The resource name of a run that is named as people do."""
    journey, slash, run_id = run.removeprefix("journeys/").replace("/runs/", "/").partition("/")
    if slash:
        return f"journeys/{journey}/runs/{run_id}"
    request = pb.ListRunsRequest(parent=f"journeys/{journey}", page_size=1)
    found = (await services.evaluator.ListRuns(request)).runs
    if not found:
        raise CommandError(f"journeys/{journey} has no runs; `cairn run {journey}` begins one.")
    return str(found[0].name)


def _seconds(run: pb.Run) -> str:
    if not run.HasField("end_time"):
        return ""
    return f"{(from_timestamp(run.end_time) - from_timestamp(run.run_time)) / 1_000_000:,.1f}"
