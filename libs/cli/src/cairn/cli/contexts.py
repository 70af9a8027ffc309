"""Owns what a message is made for when no journey asks: a real profile, an event given by hand, a file, a template's sample."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

import click

from cairn.api.evaluator.v1.evaluator_pb2 import GetProfileRequest
from cairn.cli.connect import Services
from cairn.cli.jsonl import parse_pairs
from cairn.cli.names import resource
from cairn.cli.output import to_dict
from cairn.runtime.clock import format_time, now_us

Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for: each part replaces that part of the base, which is the file or the template's sample."""

    profile: str = ""
    event: str = ""
    properties: Mapping[str, Any] | None = None
    base: Mapping[str, Any] | None = None

    @property
    def needs_sample(self) -> bool:
        """Whether the parts that were not asked for come from the template's sample."""
        return self.base is None and bool(self.profile or self.event)


def context_options(command: Command) -> Command:
    """Give a command `--profile`, `--event`, `--property` and `--context`; it is called with `wanted`, a `Wanted`."""

    @functools.wraps(command)
    def call(
        *args: Any,
        profile: str,
        event: str,
        properties: tuple[str, ...],
        context: IO[bytes] | None,
        **kwargs: Any,
    ) -> Any:
        if properties and not event:
            raise click.UsageError("--property is of an event: say its name by --event.")
        wanted = Wanted(
            profile,
            event,
            parse_pairs(properties, "--property"),
            read_context(context) if context is not None else None,
        )
        return command(*args, wanted=wanted, **kwargs)

    wrapped: Command = call
    for option in (
        click.option(
            "--context",
            type=click.File("rb"),
            metavar="FILE",
            help="JSON object with `profile`, `entry` and `event`; `-` is stdin. [default: the template's sample]",
        ),
        click.option(
            "--property",
            "properties",
            multiple=True,
            metavar="KEY=VALUE",
            help="One of the event's properties; JSON or text.",
        ),
        click.option(
            "--event", default="", metavar="NAME", help="As if an event of this name began the journey."
        ),
        click.option(
            "--profile",
            default="",
            metavar="ID",
            help="With this profile's attributes, as the Evaluator has them.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


def read_context(source: IO[bytes]) -> dict[str, Any]:
    """The JSON object of a file; a file that holds none is wrong usage."""
    name = getattr(source, "name", "<stdin>")
    try:
        found = json.loads(source.read())
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{name}: is not JSON: {error}", param_hint="--context") from None
    if not isinstance(found, dict):
        raise click.BadParameter(f"{name}: is no JSON object.", param_hint="--context")
    return found


async def make_context(services: Services, wanted: Wanted, sample: bytes = b"") -> bytes:
    """The context on the wire; empty, which stands for the template's sample, when nothing was asked for and no sample is known here."""
    base = dict(wanted.base) if wanted.base is not None else _sample(sample)
    if wanted.profile:
        base["profile"] = await _attributes(services, wanted.profile)
    if wanted.event:
        happened = {
            "name": wanted.event,
            "occur_time": format_time(now_us()),
            "properties": dict(wanted.properties or {}),
        }
        base["entry"] = base["event"] = happened
    return json.dumps(base, ensure_ascii=False).encode() if base or wanted.base is not None else b""


def _sample(sample: bytes) -> dict[str, Any]:
    found = json.loads(sample or b"{}")
    return found if isinstance(found, dict) else {}


async def _attributes(services: Services, profile: str) -> Mapping[str, Any]:
    request = GetProfileRequest(name=resource("profiles", profile))
    found = (await services.evaluator.GetProfile(request)).profile
    attributes: Mapping[str, Any] = to_dict(found).get("attributes", {})
    return attributes
