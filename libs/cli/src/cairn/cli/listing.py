"""Owns how lists are asked for, read and shown: a page after the other, at once for programs, as a table for people."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeVar

import click
from google.protobuf.message import Message

from cairn.cli.connect import Services
from cairn.cli.output import print_message, print_note, print_table

if TYPE_CHECKING:
    from rich.text import Text

M = TypeVar("M", bound=Message)


class ListsByDefault(click.Group):
    """A group that lists when no command is named: `cairn journeys --json` is `cairn journeys list --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def show_list(
    services: Services,
    items: Callable[[], AsyncIterator[M]],
    columns: Sequence[str],
    row: Callable[[M], Sequence["str | Text"]],
    *,
    limit: int,
    as_json: bool,
    whole: Collection[str] = (),
) -> None:
    """Show the items of a list, a `row` for each; `whole` is as of `print_table`. For programs each is printed as it comes: a list may be longer than memory."""

    async def run() -> list[M]:
        kept: list[M] = []
        async with services:
            async for each in items():
                if as_json:
                    print_message(each)
                else:
                    kept.append(each)
        return kept

    found = asyncio.run(run())
    if as_json:
        return
    print_table(columns, [row(each) for each in found], whole=whole)
    if limit and len(found) == limit:
        print_note(f"The first {limit:,}; --limit 0 shows all.")


def show_facts(head: str, facts: Sequence[tuple[str, "str | Text"]]) -> None:
    """What is known of one thing, a line for each fact; those that are empty are left out."""
    print_table((head, ""), [(name, value) for name, value in facts if value])
