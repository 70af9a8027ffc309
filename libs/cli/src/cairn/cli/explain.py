"""Owns `cairn explain`: why somebody is where he is in a journey, or why he never entered."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from cairn.api.evaluator.v1.evaluator_pb2 import (
    CriteriaExplanation,
    ExplainRequest,
    ExplainResponse,
    RuleExplanation,
    TransitionKind,
    Verdict,
)
from cairn.cli.connect import Services
from cairn.cli.jsonl import parse_time
from cairn.cli.options import json_option, service_options
from cairn.cli.output import clean, console, print_message, print_table, show_time, state_text
from cairn.cli.profiles import profile_resource

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

_MARKS = {
    Verdict.VERDICT_TRUE: ("+", "green"),
    Verdict.VERDICT_FALSE: ("-", "red"),
    Verdict.VERDICT_FAILED: ("!", "bold red"),
}


@click.command(
    epilog="""\b
Examples:
  cairn explain ada abandoned-cart
  cairn explain ada abandoned-cart --at 2026-11-24T11:30:00Z
  cairn explain ada abandoned-cart --key cart-7
  cairn explain ada abandoned-cart --json | jq -r .summary
"""
)
@click.argument("profile")
@click.argument("journey")
@click.option("--at", default="", metavar="TIME", help="As of when, RFC 3339. [default: now]")
@click.option("--key", default="", help="In a keyed journey, the value of the key. [default: entered last]")
@json_option
@service_options("evaluator")
def explain(services: Services, profile: str, journey: str, at: str, key: str, as_json: bool) -> None:
    """Why PROFILE is where it is in JOURNEY, or why it never entered: each criteria with the values that it saw."""
    request = ExplainRequest(
        profile=profile_resource(profile), journey=f"journeys/{journey.removeprefix('journeys/')}", key=key
    )
    if at:
        try:
            request.at.CopyFrom(parse_time(at))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--at") from None

    async def fetch() -> ExplainResponse:
        async with services:
            return await services.evaluator.Explain(request)

    found = asyncio.run(fetch())
    if as_json:
        print_message(found)
    else:
        _show(found)


def _show(found: ExplainResponse) -> None:
    screen = console()
    screen.print(clean(found.summary), style="bold", soft_wrap=True)
    if found.rules:
        screen.print()
        screen.print(_tree("What is tested, in this order:", found.rules), soft_wrap=True)
    for each in found.inputs:
        screen.print()
        head = f"Reached it and changed nothing: {clean(each.sentence)}"
        screen.print(_tree(head, each.rules), soft_wrap=True)
    if found.because:
        screen.print()
        print_table(
            ("time", "kind", "place", "cause"),
            [
                (
                    show_time(each.time),
                    state_text(TransitionKind.Name(each.kind).removeprefix("TRANSITION_KIND_")),
                    each.step or each.stage,
                    each.cause,
                )
                for each in found.because
            ],
            title="How it came there, newest first",
        )


def _tree(head: str, rules: Iterable[RuleExplanation]) -> "Tree":
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(head))
    for rule in rules:
        mark, style = ("+", "green") if rule.holds else ("-", "red")
        line = Text(f"{mark} ", style=style)
        line.append(f"{rule.rule}: ", style="bold").append(clean(rule.sentence))
        branch = tree.add(line)
        if rule.criteria.children:
            _grow(branch, rule.criteria)
    return tree


def _grow(tree: "Tree", criteria: CriteriaExplanation) -> None:
    for child in criteria.children:
        branch = tree.add(_part(child))
        _grow(branch, child)


def _part(part: CriteriaExplanation) -> "Text":
    from rich.text import Text

    mark, style = _MARKS.get(part.verdict, ("?", ""))
    line = Text(f"{mark} ", style=style)
    line.append(clean(part.text))
    told = ", ".join(filter(None, (part.saw, part.needed and f"needed {part.needed}", part.why)))
    if told and not part.children:
        line.append(f"  ({clean(told)})", style="dim")
    return line
