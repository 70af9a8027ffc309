"""Owns `cairn journeys pause`, `resume` and `end`: what changes a published journey's life, and the wait until all know."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import click

from cairn.api.definition.v1 import definition_pb2 as definition
from cairn.api.definition.v1.journey_pb2 import Journey, JourneyState, PauseMode
from cairn.cli.apply import wait_live
from cairn.cli.asking import confirm
from cairn.cli.connect import Services
from cairn.cli.options import json_option, service_options
from cairn.cli.output import print_json, print_note, print_table, short_name, state_text, status

_REMOVAL = "Remove all who are in {}? They can't be brought back."


class _Changed(Protocol):
    """What every change of a life is answered with."""

    @property
    def journey(self) -> Journey: ...
    @property
    def revision(self) -> int: ...


def _life_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands that change a life."""
    options: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
        service_options("definition"),
        json_option,
        click.option(
            "--timeout",
            type=click.FloatRange(0, 3600),
            default=60.0,
            show_default=True,
            help="Seconds to wait at most.",
        ),
        click.option(
            "--wait/--no-wait", default=True, help="Whether to wait until every live Evaluator knows."
        ),
    )
    for option in options:
        command = option(command)
    return command


@click.command(
    epilog="""\b
Examples:
  cairn journeys pause abandoned-cart
  cairn journeys pause abandoned-cart --mode run
  cairn journeys pause abandoned-cart --mode drop --yes
"""
)
@click.argument("name")
@click.option(
    "--mode",
    type=click.Choice(["freeze", "run", "drop"], case_sensitive=False),
    default="freeze",
    show_default=True,
    help="freeze: clocks stop. run: timers age, what they would do is held. drop: open enrollments are removed.",
)
@click.option("--yes", is_flag=True, help="Do not ask before open enrollments are removed.")
@_life_options
def pause(
    services: Services, name: str, mode: str, yes: bool, wait: bool, timeout: float, as_json: bool
) -> None:
    """Pause a live journey: steps, sends and new entries wait for the resume; goals, exits and milestones act.

    Returns when every live Evaluator knows.
    """
    if mode.lower() == "drop":
        confirm(_REMOVAL.format(short_name(name)), yes=yes)
    request = definition.PauseJourneyRequest(
        name=resource(name), mode=PauseMode.Value(f"PAUSE_MODE_{mode.upper()}")
    )
    _change_life(
        services, lambda: services.definition.PauseJourney(request), "paused", wait, timeout, as_json
    )


@click.command(
    epilog="""\b
Examples:
  cairn journeys resume abandoned-cart
"""
)
@click.argument("name")
@_life_options
def resume(services: Services, name: str, wait: bool, timeout: float, as_json: bool) -> None:
    """Resume a paused journey. Returns when every live Evaluator knows."""
    request = definition.ResumeJourneyRequest(name=resource(name))
    _change_life(
        services, lambda: services.definition.ResumeJourney(request), "resumed", wait, timeout, as_json
    )


@click.command(
    epilog="""\b
Examples:
  cairn journeys end abandoned-cart
  cairn journeys end abandoned-cart --remove --yes
"""
)
@click.argument("name")
@click.option("--remove", is_flag=True, help="Remove open enrollments instead of letting them drain.")
@click.option("--yes", is_flag=True, help="Do not ask before open enrollments are removed.")
@_life_options
def end(
    services: Services, name: str, remove: bool, yes: bool, wait: bool, timeout: float, as_json: bool
) -> None:
    """End a journey for good: nobody enters any more. Returns when every live Evaluator knows."""
    if remove:
        confirm(_REMOVAL.format(short_name(name)), yes=yes)
    request = definition.EndJourneyRequest(name=resource(name), remove=remove)
    _change_life(services, lambda: services.definition.EndJourney(request), "ended", wait, timeout, as_json)


def _change_life(
    services: Services,
    call: Callable[[], Awaitable[_Changed]],
    done: str,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    async def run() -> tuple[_Changed, list[str] | None]:
        async with services:
            answer = await call()
            if not wait:
                return answer, None
            with status(f"Waiting until revision {answer.revision} is known everywhere ..."):
                return answer, await wait_live(services, answer.revision, timeout_s, done)

    answer, watchers = asyncio.run(run())
    journey = answer.journey
    if as_json:
        print_json(
            {
                "journey": short_name(journey.name),
                "state": journey_state(journey),
                "revision": answer.revision,
                "live": watchers,
            }
        )
        return
    mode = PauseMode.Name(journey.pause.mode).removeprefix("PAUSE_MODE_") if journey.HasField("pause") else ""
    print_table(
        ("journey", "state", "mode", "version"),
        [(short_name(journey.name), state_text(journey_state(journey)), mode, str(journey.latest_version))],
    )
    if watchers:
        print_note(f"Known everywhere: {len(watchers)} Evaluator{'s' * (len(watchers) > 1)}.")
    elif watchers is not None:
        print_note("No Evaluator is live at the moment; each will know when it is.")


def journey_state(journey: Journey) -> str:
    """DRAFT, LIVE, PAUSED or ENDED."""
    return JourneyState.Name(journey.state).removeprefix("JOURNEY_STATE_")


def resource(name: str) -> str:
    """`journeys/{id}` of an id or a resource name."""
    return f"journeys/{name.removeprefix('journeys/')}"
