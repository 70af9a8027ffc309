"""Owns `cairn demo`: the story on real parts, shown as it happens, and the verdict on what came of it."""

import asyncio
import shutil
import signal
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.panel import Panel
from rich.text import Text

from cairn.api.activation.v1.activation_pb2 import DeliveryState
from cairn.api.evaluator.v1.evaluator_pb2 import TimelineEntry
from cairn.cli.apply import Result
from cairn.cli.deliveries import print_deliveries
from cairn.cli.demo_judge import Evidence, Mail, Verdict, judge, member_id, read_mailbox
from cairn.cli.demo_play import Play, Settled
from cairn.cli.demo_stage import AUDIENCE, Stage, find_examples
from cairn.cli.demo_story import PEOPLE
from cairn.cli.failures import CommandError
from cairn.cli.options import json_option
from cairn.cli.output import clean, console, print_json, print_note, print_table, state_text, status, to_dict
from cairn.cli.views import EntryText, describe_entry
from cairn.runtime.clock import from_timestamp, now_us

_LOOK_SECONDS = 0.5


@click.command(
    epilog="""\b
Examples:
  cairn demo
  cairn demo --mailbox received-mails
  cairn demo --speed 600 --keep
"""
)
@click.option(
    "--speed",
    type=click.IntRange(60, 7200),
    default=3600,
    show_default=True,
    help="How many times faster than real life: at 3600 an hour is a second.",
)
@click.option(
    "--mailbox",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the received mails here, as .eml.",
)
@click.option("--keep", is_flag=True, help="Run on after the verdict until Ctrl-C, to look around.")
@click.option(
    "--examples",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the example journeys.",
)
@json_option
def demo(speed: int, mailbox: Path | None, keep: bool, examples: Path | None, as_json: bool) -> None:
    """Show the main job on real parts: four services, a Postgres, a mail server, a stand-in ad platform.

    Applies the example journeys as they are, sends the events of nine people, and shows what happens as it happens.
    Exits 0 only if every expected message arrived exactly once and nothing else did.
    """
    folder = find_examples(examples)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    began = time.monotonic()
    stage = Stage(speed)
    went_wrong = False
    try:
        with status("Starting Postgres, four services, a mail server and an ad platform ..."):
            stage.start()
        verdicts = asyncio.run(_perform(stage, folder, speed, as_json))
        if mailbox:
            _keep_mails(stage.mailbox, mailbox)
        went_wrong = not all(each.ok for each in verdicts)
        _show_verdicts(verdicts, as_json)
        if not as_json:
            print_note(f"{time.monotonic() - began:.1f} s in all.")
        if keep:
            _look_around(stage)
    except Exception:
        went_wrong = True
        raise
    finally:
        with status("Stopping ..."):
            stage.close(keep_folder=went_wrong)
    if went_wrong:
        wrong = [
            f"{each.profile_id}: expected {each.expected}; got {each.got}" for each in verdicts if not each.ok
        ]
        raise CommandError(f"not what the story asks for; logs and mails are in {stage.folder}", wrong)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


async def _perform(stage: Stage, examples: Path, speed: int, quiet: bool) -> list[Verdict]:
    async with stage.services() as services:
        play = Play(services, speed, stage.mailbox)
        applied = await play.prepare(stage.connections(), examples)
        if not quiet:
            _show_cast(stage, applied, speed)
        reporter = _Reporter(play, quiet=quiet)
        settled = await play.perform(reporter.show, reporter.tell)
    audience = await stage.audience_state()
    members = _members(audience)
    mails = read_mailbox(stage.mailbox)
    if not quiet:
        _show_results(mails, members, settled)
    return judge(PEOPLE, Evidence(mails, members, settled.deliveries, play.known_again))


def _members(state: dict[str, Any]) -> list[str]:
    # Each row holds the identifiers of one person, here the hashed address alone.
    return [str(row[0]) for row in state["members"].get(AUDIENCE, [])]


def _show_cast(stage: Stage, applied: Result, speed: int) -> None:
    screen = console()
    parts = ", ".join(f"{name} {instance.address}" for name, instance in stage.suite.instances.items())
    screen.print(f"Running: {parts}", soft_wrap=True)
    live = ", ".join(f"{each.name} v{each.version}" for each in applied.applied if each.kind == "journey")
    screen.print(f"Live, from the example files as they are: {live}")
    screen.print(
        f"Speed {speed}: an hour of the story takes {3600 / speed:g} s. The Evaluator divides waits as it loads a journey; "
        "nothing is stored differently.\n",
        soft_wrap=not screen.is_terminal,
    )


class _Reporter:
    """Prints one line for each thing that happens: the story's clock, who, in which journey, what."""

    def __init__(self, play: Play, *, quiet: bool) -> None:
        self._play = play
        self._quiet = quiet
        self._asked_by: dict[str, EntryText] = {}

    def tell(self, profile_id: str, what: str) -> None:
        """Something that a person did, and that no service tells of."""
        if not self._quiet:
            console().print(
                Text(f"{self._clock(now_us())}  {profile_id:<5} {what}", style="bold"), soft_wrap=True
            )

    def show(self, profile_id: str, entry: TimelineEntry) -> None:
        """An entry of somebody's timeline."""
        if self._quiet:
            return
        text = describe_entry(entry)
        activation_id = entry.receipt.activation_id or str(
            to_dict(entry.transition.detail).get("activation_id", "")
        )
        # A receipt names the activation alone: the transition that asked for it says whose it is.
        asked_by = self._asked_by.setdefault(activation_id, text) if activation_id else text
        clock = self._clock(from_timestamp(entry.record_time))
        line = Text(f"{clock}  {profile_id:<5} {asked_by.journey:<17} ")
        line.append(f"{asked_by.place:<12} ")
        line.append_text(state_text(text.kind))
        if more := entry.receipt.detail or (text.more if text.kind == "ENTRY_REFUSED" else ""):
            line.append(f"  {clean(more)}", style="dim")
        console().print(line, soft_wrap=True)

    def _clock(self, real_us: int) -> str:
        minutes = self._play.minute_of(real_us)
        return f"{minutes // 60:2d} h {minutes % 60:02d}"


def _show_results(mails: Sequence[Mail], members: Sequence[str], settled: Settled) -> None:
    screen = console()
    screen.print()
    for mail in mails:
        title = Text(clean(f"to {mail.recipient}: {mail.subject}"), style="bold")
        screen.print(Panel(Text(clean(mail.text.strip())), title=title, title_align="left", width=76))
    if mails and all(mail.html and mail.unsubscribe_url for mail in mails):
        screen.print(
            "Each mail has HTML beside this text, and an address by which a mail program unsubscribes with one click:\n"
            f"  {mails[0].unsubscribe_url}\n",
            soft_wrap=True,
        )
    names = {member_id(person): person.profile_id for person in PEOPLE if member_id(person)}
    print_table(
        ("member of the audience", "as the platform knows them (SHA-256 of the address)"),
        [
            (names.get(member, "somebody else"), member)
            for member in sorted(members, key=lambda each: names.get(each, ""))
        ],
        title="Ad audience",
    )
    print_deliveries(settled.deliveries, ids=False)
    sent = DeliveryState.DELIVERY_STATE_SENT
    on_the_way = [
        from_timestamp(each.state_time) - from_timestamp(each.request_time)
        for each in settled.deliveries
        if each.state == sent and each.template
    ]
    print_table(
        ("lateness", "count", "median", "worst"),
        [
            _figures("timer due, until acted on", settled.lateness_us),
            _figures("mail due, until the mail server took it", on_the_way),
        ],
    )


def _figures(name: str, lateness_us: Sequence[int]) -> tuple[str, str, str, str]:
    if not lateness_us:
        return (name, "0", "", "")
    median, worst = statistics.median(lateness_us), max(lateness_us)
    return (name, str(len(lateness_us)), f"{median / 1000:.0f} ms", f"{worst / 1000:.0f} ms")


def _show_verdicts(verdicts: Sequence[Verdict], as_json: bool) -> None:
    if as_json:
        for each in verdicts:
            print_json({"who": each.profile_id, "expected": each.expected, "got": each.got, "ok": each.ok})
        return
    print_table(
        ("who", "story", "expected", "got", "verdict"),
        [
            (each.profile_id, each.story, each.expected, each.got, state_text("ok" if each.ok else "wrong"))
            for each in verdicts
        ],
    )
    if all(each.ok for each in verdicts):
        console().print(
            Text("Every expected message arrived exactly once, and nothing else did.", style="bold green")
        )


def _keep_mails(received: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in received.glob("*.eml"):
        shutil.copy(file, folder / file.name)
    print_note(f"The received mails are in {folder}.")


def _look_around(stage: Stage) -> None:
    for name in stage.suite.instances:
        print_note(f"export CAIRN_{name.upper()}_ADDRESS={stage.suite.address(name)}")
    print_note("Still running, for `cairn timeline ada` and the like. Ctrl-C stops everything.")
    try:
        while not (casualties := stage.suite.casualties()):
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        return
    raise CommandError("a part of the suite ended.", casualties)
