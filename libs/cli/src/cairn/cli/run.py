"""Owns `cairn run`: begins a run of a batch journey and shows how far it is, or counts what one would do."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click
import grpc

from cairn.api.evaluator.v1.evaluator_pb2 import (
    Run,
    RunBatchRequest,
    RunBatchResponse,
    RunCount,
    RunState,
    StartRunRequest,
    TransitionKind,
)
from cairn.cli.connect import Services
from cairn.cli.failures import CommandError
from cairn.cli.interrupting import until_interrupted
from cairn.cli.names import resource, word
from cairn.cli.options import json_option, service_options
from cairn.cli.output import clean, console, print_message, print_note, progress, short_name, show_time
from cairn.runtime.ids import random_id

if TYPE_CHECKING:
    from rich.tree import Tree

_TRIES = 30
_RETRY_SECONDS = 1.0


@click.command(
    epilog="""\b
Examples:
  cairn run win-back
  cairn run win-back --dry-run
  cairn run win-back --dry-run --json | jq '.counts[] | select(.kind == "TRANSITION_KIND_ENTERED").count'
  cairn run win-back --no-wait
"""
)
@click.argument("journey")
@click.option("--dry-run", is_flag=True, help="Count what would happen at each step, and do nothing.")
@click.option("--wait/--no-wait", default=True, help="Whether to wait until the run is over.")
@json_option
@service_options("evaluator")
def run(services: Services, journey: str, dry_run: bool, wait: bool, as_json: bool) -> None:
    """Run a batch journey over its audience now, and wait until everybody was looked at.

    Ctrl-C leaves the run going. One that does not end well makes the exit code 1.
    """
    name = resource("journeys", journey)
    if dry_run:
        found = asyncio.run(_follow(services, RunBatchRequest(journey=name, validate_only=True)))
        if as_json:
            print_message(found)
        else:
            _show_counts(found)
        return
    request_id = f"{random_id():x}"
    if wait:
        told: list[Run] = []
        request = RunBatchRequest(journey=name, request_id=request_id)
        followed, _ = asyncio.run(until_interrupted(_follow(services, request, told.append)))
        if followed is None:
            if told:
                place = run_text(told[0])
                print_note(f"The run goes on. See it with: cairn runs show {place}")
                print_note(f"End it with:              cairn runs cancel {place}")
            raise KeyboardInterrupt
        ended = followed.run
    else:
        ended = asyncio.run(_start(services, StartRunRequest(journey=name, request_id=request_id)))
    if as_json:
        print_message(ended)
    elif wait:
        print_note(f"{run_text(ended)} {word(RunState, ended.state)}: {progress_text(ended)}.")
    else:
        click.echo(run_text(ended))
    if ended.state in (RunState.RUN_STATE_FAILED, RunState.RUN_STATE_CANCELED):
        why = f": {ended.problem}" if ended.problem else "."
        raise CommandError(f"the run is {word(RunState, ended.state)}{why}")


def run_text(run: Run) -> str:
    """A run as people name it: `win-back/20261124-060000-3f2a9c`."""
    journey, _, run_id = run.name.removeprefix("journeys/").partition("/runs/")
    return f"{journey}/{run_id}"


def progress_text(run: Run) -> str:
    """What a run has done so far, in words."""
    done = run.progress
    words = f"{done.seen:,} of {done.profiles:,} profiles, {done.moved:,} moved, {done.entered:,} entered, {done.activated:,} activations"
    return f"{words}, {done.failed:,} failed" if done.failed else words


async def _start(services: Services, request: StartRunRequest) -> Run:
    async with services:
        return (await services.evaluator.StartRun(request)).run


async def _follow(
    services: Services, request: RunBatchRequest, tell: Callable[[Run], object] = lambda _: None
) -> RunBatchResponse:
    """Shows how far a run is until it is over; the last that was told of it. A stream that breaks off is taken up again, by the id of the
    request."""
    last = RunBatchResponse()
    failures = 0
    with progress(unit="profiles") as bar:
        task = bar.add_task("Starting", total=None)
        async with services:
            while True:
                try:
                    async for last in services.evaluator.RunBatch(request):
                        failures = 0
                        tell(last.run)
                        done = last.run.progress
                        bar.update(
                            task,
                            description=_bar_text(last.run),
                            completed=done.seen,
                            total=max(done.profiles, 1),
                        )
                    return last
                except grpc.aio.AioRpcError as error:
                    # Nothing was begun that could be found again, or it is no use.
                    begun = bool(last.run.name) and error.code() is grpc.StatusCode.UNAVAILABLE
                    failures += 1
                    if not begun or failures > _TRIES:
                        raise
                    await asyncio.sleep(_RETRY_SECONDS)


def _bar_text(run: Run) -> str:
    done = run.progress
    parts = [
        f"{word(RunState, run.state)}: {done.moved:,} moved",
        f"{done.entered:,} entered",
        f"{done.activated:,} activations",
    ]
    if run.progress.HasField("remaining"):
        parts.append(f"{run.progress.remaining.ToSeconds():,} s left")
    return ", ".join(parts)


def _show_counts(found: RunBatchResponse) -> None:
    screen = console()
    screen.print(count_tree(found.run, found.counts), soft_wrap=True)
    done = found.run.progress
    print_note(
        f"{done.seen:,} profiles, as of {show_time(found.run.run_time)}: {done.moved:,} would be moved, {done.entered:,} enter, "
        f"{done.activated:,} activations be asked for. Nothing was stored or sent."
    )
    if done.failed:
        print_note(f"On {done.failed:,} the machine failed; the Evaluator's log tells more.")


def count_tree(run: Run, counts: Sequence[RunCount]) -> "Tree":
    """What would happen as a tree: stages, in them steps, each with how often what."""
    from rich.text import Text
    from rich.tree import Tree

    def line(words: str, count: int) -> Text:
        text = Text(f"{count:>12,}  ", style="bold")
        return text.append(clean(words), style="not bold")

    tree = Tree(Text(short_name(run.journey_version), style="bold"))
    if not counts:
        tree.add(Text("nothing would happen"))
    stages: dict[str, Tree] = {}
    steps: dict[tuple[str, str], Tree] = {}
    for each in counts:
        if each.stage not in stages:
            stages[each.stage] = tree.add(Text(clean(each.stage or "of the journey"), style="bold"))
        place = stages[each.stage]
        if each.step:
            if (each.stage, each.step) not in steps:
                steps[each.stage, each.step] = place.add(Text(clean(each.step)))
            place = steps[each.stage, each.step]
        kind = word(TransitionKind, each.kind)
        place.add(line(f"{kind} {each.way}" if each.way else kind, each.count))
    return tree
