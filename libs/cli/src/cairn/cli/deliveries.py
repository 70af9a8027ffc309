"""Owns `cairn deliveries`: what was handed to destinations, its fate, and what a human says of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
import grpc

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1.journey_pb2 import AudienceAction
from cairn.cli.connect import Services, all_items
from cairn.cli.failures import CommandError
from cairn.cli.interrupting import until_interrupted
from cairn.cli.listing import ListsByDefault, show_facts, show_list
from cairn.cli.names import resource, short, value, word, words
from cairn.cli.options import json_option, limit_option, service_options
from cairn.cli.output import clean, console, print_message, print_note, print_table, show_time, state_text
from cairn.runtime.clock import from_timestamp
from cairn.runtime.errors import error_from_rpc

if TYPE_CHECKING:
    from rich.text import Text

_ID = "delivery"
_COLUMNS = (_ID, "profile", "journey", "step", "to", "state", "since", "tries", "detail")

_STATE_WIDTH = max(map(len, words(pb.DeliveryState)))


@click.group(cls=ListsByDefault)
def deliveries() -> None:
    """What was handed to destinations, and its fate; without a command: list it, newest first."""


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which deliveries are meant."""
    for option in (
        click.option(
            "--state",
            "states",
            multiple=True,
            type=click.Choice(words(pb.DeliveryState), case_sensitive=False),
            help="Only in this state; may be repeated.",
        ),
        click.option("--journey", default="", help="Only of this journey."),
        click.option("--profile", default="", help="Only to this profile."),
    ):
        command = option(command)
    return command


@deliveries.command(
    "list",
    epilog="""\b
Examples:
  cairn deliveries list
  cairn deliveries --profile ada
  cairn deliveries --journey abandoned-cart --state FAILED --state UNKNOWN --json
""",
)
@_filters
@limit_option
@json_option
@service_options("activation")
def list_deliveries(
    services: Services, profile: str, journey: str, states: tuple[str, ...], limit: int, as_json: bool
) -> None:
    """Deliveries, newest first."""

    def items() -> AsyncIterator[pb.Delivery]:
        request = pb.ListDeliveriesRequest(
            profile_id=profile.removeprefix("profiles/"),
            journey=resource("journeys", journey),
            states=[value(pb.DeliveryState, state) for state in states],
        )
        return all_items(services.activation.ListDeliveries, request, lambda page: page.deliveries, limit)

    show_list(services, items, _COLUMNS, _row, limit=limit, as_json=as_json, whole=(_ID,))


@deliveries.command(
    epilog="""\b
Examples:
  cairn deliveries get 2f1c9e.1
  cairn deliveries get 2f1c9e.1 --json
"""
)
@click.argument("name", metavar="DELIVERY")
@json_option
@service_options("activation")
def get(services: Services, name: str, as_json: bool) -> None:
    """One delivery with all its attempts, and what the destination told of it afterwards."""

    async def fetch() -> pb.Delivery:
        async with services:
            request = pb.GetDeliveryRequest(name=resource("deliveries", name))
            return (await services.activation.GetDelivery(request)).delivery

    found = asyncio.run(fetch())
    if as_json:
        print_message(found)
    else:
        _show(found)


@deliveries.command(
    epilog="""\b
Examples:
  cairn deliveries watch
  cairn deliveries watch --journey abandoned-cart --state FAILED --state UNKNOWN
  cairn deliveries watch --json | jq .detail
"""
)
@_filters
@json_option
@service_options("activation")
def watch(services: Services, profile: str, journey: str, states: tuple[str, ...], as_json: bool) -> None:
    """Deliveries as they change, from now on, a line for each change, until Ctrl-C."""
    request = pb.WatchDeliveriesRequest(
        profile_id=profile.removeprefix("profiles/"),
        journey=resource("journeys", journey),
        states=[value(pb.DeliveryState, state) for state in states],
    )

    async def follow() -> None:
        async with services:
            heard = False
            async for answer in services.activation.WatchDeliveries(request):
                if not heard and not as_json:
                    print_note("Watching; Ctrl-C ends it.")
                heard = True
                for each in answer.deliveries:
                    if as_json:
                        print_message(each)
                    else:
                        console().print(line_text(each), soft_wrap=True)

    asyncio.run(until_interrupted(follow()))


_names = click.argument("names", metavar="DELIVERY...", nargs=-1, required=True)
_reason = click.option("--reason", default="", help="Why, for people; kept with the delivery.")


@deliveries.command(
    epilog="""\b
Examples:
  cairn deliveries retry 2f1c9e.1 --reason 'the mail server is mended'
  cairn deliveries --state FAILED --json | jq -r .name | xargs cairn deliveries retry --reason 'mended'
"""
)
@_names
@_reason
@json_option
@service_options("activation")
def retry(services: Services, names: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Send deliveries again that are FAILED, REFUSED or UNKNOWN. One that is UNKNOWN may then arrive twice.

    The guard looks at each again: what is suppressed is refused once more.
    """

    async def again(name: str) -> pb.Delivery:
        request = pb.RetryDeliveryRequest(name=name, reason=reason)
        return (await services.activation.RetryDelivery(request)).delivery

    _decide(services, names, again, as_json)


@deliveries.command(
    epilog="""\b
Examples:
  cairn deliveries resolve 2f1c9e.1 sent --reason 'it is in the log of the mail server'
  cairn deliveries resolve 2f1c9e.1 failed --reason 'the customer says that nothing came'
"""
)
@click.argument("name", metavar="DELIVERY")
@click.argument("fate", type=click.Choice(["sent", "failed"], case_sensitive=False))
@_reason
@json_option
@service_options("activation")
def resolve(services: Services, name: str, fate: str, reason: str, as_json: bool) -> None:
    """Say what became of a delivery that is UNKNOWN."""

    async def settle(full_name: str) -> pb.Delivery:
        request = pb.ResolveDeliveryRequest(
            name=full_name, state=value(pb.DeliveryState, fate), reason=reason
        )
        return (await services.activation.ResolveDelivery(request)).delivery

    _decide(services, (name,), settle, as_json)


def _decide(
    services: Services,
    names: Sequence[str],
    call: Callable[[str], Any],
    as_json: bool,
) -> None:
    """Make one call for each delivery; tell of those that it was refused for, and fail, when all are done."""

    async def run() -> tuple[list[pb.Delivery], list[str]]:
        done, refused = [], []
        async with services:
            for name in names:
                try:
                    done.append(await call(resource("deliveries", name)))
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _OF_ONE or len(names) == 1:
                        raise
                    refused.append(f"{short(name)}: {error_from_rpc(error).message}")
        return done, refused

    done, refused = asyncio.run(run())
    if as_json:
        for each in done:
            print_message(each)
    elif done:
        print_deliveries(done)
    if refused:
        raise CommandError(f"{len(refused)} of {len(names)} were refused; all others were taken.", refused)


_OF_ONE = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ABORTED,
    }
)
"""What is wrong with one delivery, and with no other."""


def delivery_state(state: pb.DeliveryState.ValueType) -> str:
    """The state's short name: "SENT"."""
    return word(pb.DeliveryState, state)


def print_deliveries(found: Sequence[pb.Delivery], *, ids: bool = True) -> None:
    """The ledger's rows as a table; their ids are for whoever goes on with them."""
    first = 0 if ids else 1
    print_table(_COLUMNS[first:], [_row(each)[first:] for each in found], whole=(_ID,))


def destination(delivery: pb.Delivery) -> str:
    """Where a delivery goes, in words: "email, welcome", "meta-audience, ADD"."""
    parts = (short(delivery.connection), short(delivery.template), word(AudienceAction, delivery.action))
    return ", ".join(filter(None, parts))


def _row(each: pb.Delivery) -> tuple[Any, ...]:
    return (
        each.activation_id,
        each.profile_id,
        short(each.journey_version),
        each.step,
        destination(each),
        state_text(delivery_state(each.state)),
        show_time(each.state_time),
        str(each.attempts),
        _detail(each),
    )


def _detail(each: pb.Delivery) -> str:
    """What is known of its state, and when it goes on."""
    later = from_timestamp(each.next_attempt_time) > from_timestamp(each.state_time)
    due = f"next try {show_time(each.next_attempt_time)}" if later else ""
    return "; ".join(filter(None, (each.detail, due)))


def line_text(each: pb.Delivery) -> "Text":
    """A delivery on one line: when, what, to whom, where."""
    from rich.text import Text

    line = Text(f"{show_time(each.state_time)}  ")
    state = state_text(delivery_state(each.state))
    state.pad_right(max(0, _STATE_WIDTH - len(state)))
    line.append_text(state)
    line.append(clean(f"  {each.profile_id}  {destination(each)}  {short(each.journey_version)}  "))
    line.append(clean(f"{each.activation_id}  {_detail(each)}"), style="dim")
    return line


def _show(found: pb.Delivery) -> None:
    template = short(found.template)
    version = f", version {found.template_version}" if found.template_version else ""
    show_facts(
        found.activation_id,
        [
            ("profile", found.profile_id),
            ("state", state_text(delivery_state(found.state))),
            ("since", show_time(found.state_time)),
            ("detail", found.detail),
            ("next try", show_time(found.next_attempt_time)),
            ("connection", short(found.connection)),
            ("template", f"{template}{version}" if template else ""),
            ("action", word(AudienceAction, found.action)),
            ("known there as", found.external_id),
            ("asked by", " ".join(filter(None, (short(found.journey_version), found.step)))),
            ("asked for", show_time(found.request_time)),
            ("accepted", show_time(found.accept_time)),
            ("tries", str(found.attempts)),
        ],
    )
    if found.history:
        print_table(
            ("ended", "state", "detail"),
            [
                (show_time(each.end_time), state_text(delivery_state(each.state)), each.detail)
                for each in found.history
            ],
            title="Before that, oldest first",
        )
    if found.feedback:
        print_table(
            ("happened", "what", "by", "detail"),
            [
                (
                    show_time(each.occur_time),
                    state_text(word(pb.FeedbackKind, each.kind)),
                    each.provider,
                    each.detail,
                )
                for each in found.feedback
            ],
            title="What came back of it",
        )
