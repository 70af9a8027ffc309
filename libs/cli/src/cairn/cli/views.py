"""Owns the views of what is going on: enrollments, timelines, timers."""

import asyncio
import json
from dataclasses import dataclass, replace

import click

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import (
    Enrollment,
    EnrollmentState,
    GetTimelineRequest,
    ListEnrollmentsRequest,
    TimelineEntry,
    TransitionKind,
)
from cairn.api.scheduler.v1.scheduler_pb2 import ListedTimer, ListTimersRequest, TimerState
from cairn.cli.connect import Services, all_items
from cairn.cli.deliveries import delivery_state
from cairn.cli.names import resource, value, word, words
from cairn.cli.options import json_option, limit_option, service_options
from cairn.cli.output import print_message, print_table, short_name, show_time, state_text, to_dict
from cairn.cli.profiles import profile_resource


@dataclass(frozen=True, slots=True)
class EntryText:
    """One entry of a timeline in words: the journey and its version, where in it, what, and more of it."""

    journey: str
    place: str
    kind: str
    more: str


def describe_entry(entry: TimelineEntry) -> EntryText:
    """What one entry of a timeline says to a person."""
    which = entry.WhichOneof("entry")
    if which == "transition":
        change = entry.transition
        place = (
            change.step
            if change.step.startswith(change.stage)
            else "/".join(filter(None, (change.stage, change.step)))
        )
        detail = to_dict(change).get("detail", {})
        more = [f"{key}: {_brief(value)}" for key, value in sorted(detail.items())]
        if change.cause:
            more.append(f"by {change.cause}")
        kind = TransitionKind.Name(change.kind).removeprefix("TRANSITION_KIND_")
        return EntryText(short_name(change.journey_version), place, kind, ", ".join(more))
    if which == "receipt":
        state = delivery_state(entry.receipt.state)
        more = [f"activation_id: {entry.receipt.activation_id}", *filter(None, [entry.receipt.detail])]
        return EntryText("", "", state, ", ".join(more))
    reason = ErrorReason.Name(entry.refusal.reason).removeprefix("ERROR_REASON_")
    return EntryText("", "", "REFUSED", f"{reason}: {entry.refusal.message} ({entry.refusal.effect_id})")


def _brief(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def enrollment_state(state: EnrollmentState.ValueType) -> str:
    """The state's short name: "WAITING"."""
    return word(EnrollmentState, state)


@click.command(
    epilog="""\b
Examples:
  cairn enrollments
  cairn enrollments --profile ada
  cairn enrollments --journey abandoned-cart --state WAITING --limit 0 --json
"""
)
@click.option("--profile", default="-", help="Only of this profile.")
@click.option("--journey", default="", help="Only in this journey.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(words(EnrollmentState), case_sensitive=False),
    help="Only in this state; may be repeated.",
)
@limit_option
@json_option
@service_options("evaluator")
def enrollments(
    services: Services, profile: str, journey: str, states: tuple[str, ...], limit: int, as_json: bool
) -> None:
    """Who is where in which journey: open enrollments, and the last ended one of each journey."""
    request = ListEnrollmentsRequest(
        parent=profile_resource(profile),
        journey=resource("journeys", journey),
        states=[value(EnrollmentState, state) for state in states],
    )

    async def fetch() -> list[Enrollment]:
        async with services:
            call = services.evaluator.ListEnrollments
            return [each async for each in all_items(call, request, lambda page: page.enrollments, limit)]

    found = asyncio.run(fetch())
    if as_json:
        for each in found:
            print_message(each)
        return
    print_table(
        ("profile", "journey", "state", "stage", "step", "entered", "waits until", "ended"),
        [
            (
                each.name.removeprefix("profiles/").rpartition("/enrollments/")[0],  # an id may hold slashes
                short_name(each.journey_version) + (f", {each.key}" if each.key else ""),
                state_text(enrollment_state(each.state)),
                each.stage,
                each.step,
                show_time(each.enter_time),
                show_time(each.wait_until),
                show_time(each.end_time) + (f" by {each.exit}" if each.exit else ""),
            )
            for each in found
        ],
    )


@click.command(
    epilog="""\b
Examples:
  cairn timeline ada
  cairn timeline ada --limit 0 --json
"""
)
@click.argument("profile")
@limit_option
@json_option
@service_options("evaluator")
def timeline(services: Services, profile: str, limit: int, as_json: bool) -> None:
    """What happened to one profile, oldest first: transitions, fates of messages, refusals. The newest are kept."""
    request = GetTimelineRequest(profile=profile_resource(profile))

    async def fetch() -> list[TimelineEntry]:
        async with services:
            call = services.evaluator.GetTimeline
            return [each async for each in all_items(call, request, lambda page: page.entries, limit)]

    found = asyncio.run(fetch())[::-1]
    if as_json:
        for each in found:
            print_message(each)
        return
    places: dict[str, EntryText] = {}
    rows = []
    for each in found:
        text = describe_entry(each)
        # A receipt names its activation alone; where that was asked for stands in the timeline before it.
        if each.WhichOneof("entry") == "transition" and "activation_id" in each.transition.detail:
            places.setdefault(str(each.transition.detail["activation_id"]), text)
        asked = places.get(each.receipt.activation_id)
        if each.WhichOneof("entry") == "receipt" and asked is not None:
            text = replace(text, journey=asked.journey, place=asked.place)
        rows.append((show_time(each.record_time), text.journey, text.place, state_text(text.kind), text.more))
    print_table(("recorded", "journey", "where", "what", "more"), rows)


@click.command(
    epilog="""\b
Examples:
  cairn timers
  cairn timers --overdue
  cairn timers --parked --json
"""
)
@click.option("--profile", default="", help="Only of this profile.")
@click.option("--overdue", is_flag=True, help="Only those due at least a second ago and not yet taken.")
@click.option("--parked", is_flag=True, help="Only those that were refused for good.")
@limit_option
@json_option
@service_options("scheduler")
def timers(services: Services, profile: str, overdue: bool, parked: bool, limit: int, as_json: bool) -> None:
    """What is due when, in order of due time."""
    request = ListTimersRequest(key=profile.removeprefix("profiles/"), overdue=overdue, parked=parked)

    async def fetch() -> list[ListedTimer]:
        async with services:
            call = services.scheduler.ListTimers
            return [each async for each in all_items(call, request, lambda page: page.timers, limit)]

    found = asyncio.run(fetch())
    if as_json:
        for each in found:
            print_message(each)
        return
    print_table(
        ("due", "profile", "state", "timer", "refusal"),
        [
            (
                show_time(each.timer.due_time),
                each.timer.key,
                state_text(TimerState.Name(each.state).removeprefix("TIMER_STATE_")),
                each.timer.timer_id,
                each.refusal,
            )
            for each in found
        ],
    )
