"""Owns `cairn profiles`: describing profiles, showing one, erasing some; in bulk see profiles_bulk."""

import asyncio
import json
from collections.abc import Iterable
from typing import IO

import click

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import (
    EraseProfilesRequest,
    GetProfileRequest,
    Profile,
    UpsertMode,
    UpsertProfilesRequest,
)
from cairn.cli.asking import confirm, is_asked, yes_option
from cairn.cli.connect import Services
from cairn.cli.failures import CommandError
from cairn.cli.jsonl import Line, ProfileLine, batches, count_lines, parse_pairs, read_profiles
from cairn.cli.options import json_option, service_options
from cairn.cli.output import (
    clean,
    plural,
    print_json,
    print_message,
    print_note,
    print_table,
    progress,
    show_time,
    to_dict,
)
from cairn.cli.profiles_bulk import export, import_profiles

_ERASED_AT_ONCE = 1_000


@click.group()
def profiles() -> None:
    """Describe, show and erase profiles, one by one or in bulk."""


profiles.add_command(import_profiles)
profiles.add_command(export)


@profiles.command(
    epilog="""\b
Examples:
  cairn profiles upsert --profile ada --attribute email=ada@example.com --attribute first_name=Ada
  cairn profiles upsert -f profiles.jsonl
  cairn profiles upsert -f profiles.jsonl --replace

\b
A line of a file:
  {"profile_id": "ada", "attributes": {"email": "ada@example.com"}, "time_zone": "Europe/London"}
"""
)
@click.option("-f", "--file", "source", type=click.File("rb"), help="JSON Lines of profiles; `-` is stdin.")
@click.option("--profile", default="", help="Describe one profile.")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="KEY=VALUE",
    help="One of its attributes; JSON or text.",
)
@click.option("--time-zone", default="", help="Its IANA time zone, such as Asia/Tokyo.")
@click.option(
    "--replace", is_flag=True, help="The attributes given are all there are from now on. [default: merge]"
)
@json_option
@service_options("evaluator")
def upsert(
    services: Services,
    source: IO[bytes] | None,
    profile: str,
    attributes: tuple[str, ...],
    time_zone: str,
    replace: bool,
    as_json: bool,
) -> None:
    """Describe profiles. Attributes are merged at the top level; one that is null is removed.

    Those refused are listed by line, and the exit code is then 1; the others were taken all the same.
    """
    if (source is None) == (not profile):
        raise click.UsageError("Give either --file, or --profile of a single one.")
    if source is not None and (attributes or time_zone):
        raise click.UsageError("--attribute and --time-zone are for a single profile, not for --file.")
    mode = UpsertMode.UPSERT_MODE_REPLACE if replace else UpsertMode.UPSERT_MODE_MERGE
    lines: Iterable[Line[Profile]]
    total: int | None
    if source is None:
        one = ProfileLine(profile, parse_pairs(attributes, "--attribute"), time_zone)
        lines, total = [Line(1, one.to_message())], 1
    else:
        total = count_lines(source)
        lines = read_profiles(source)
    accepted, refused = asyncio.run(_upsert(services, lines, total, mode))
    if as_json:
        print_json({"accepted": accepted, "refused": len(refused)})
    else:
        print_note(f"{accepted:,} accepted.")
    if refused:
        raise CommandError(f"{plural(len(refused), 'profile')} refused; all others were taken.", refused)


async def _upsert(
    services: Services, lines: Iterable[Line[Profile]], total: int | None, mode: UpsertMode.ValueType
) -> tuple[int, list[str]]:
    """How many were taken, and a line for each that was not."""
    accepted, refused = 0, []
    with progress(unit="profiles") as bar:
        task = bar.add_task("Sending", total=total)
        async with services:
            for batch in batches(lines):
                readable = [line for line in batch if line.message is not None]
                refused += [f"line {line.number}: {line.problem}" for line in batch if line.message is None]
                if readable:
                    request = UpsertProfilesRequest(
                        profiles=(line.message for line in readable if line.message), mode=mode
                    )
                    answer = await services.evaluator.UpsertProfiles(request)
                    accepted += answer.accepted
                    refused += [
                        f"line {readable[each.index].number}: "
                        f"{ErrorReason.Name(each.reason).removeprefix('ERROR_REASON_')}: {each.message}"
                        for each in answer.refusals
                    ]
                bar.advance(task, len(batch))
    return accepted, refused


@profiles.command(
    epilog="""\b
Examples:
  cairn profiles get ada
  cairn profiles get ada --json
"""
)
@click.argument("profile")
@json_option
@service_options("evaluator")
def get(services: Services, profile: str, as_json: bool) -> None:
    """Show what is known of one profile."""

    async def fetch() -> Profile:
        async with services:
            answer = await services.evaluator.GetProfile(GetProfileRequest(name=profile_resource(profile)))
            return answer.profile

    found = asyncio.run(fetch())
    if as_json:
        print_message(found)
        return
    rows = [("time zone", found.time_zone or "not known"), ("changed", show_time(found.update_time))]
    rows += [
        (f"attribute {key}", _plain(value)) for key, value in to_dict(found).get("attributes", {}).items()
    ]
    print_table((found.profile_id, ""), rows)


@profiles.command(
    epilog="""\b
Examples:
  cairn profiles erase ada
  cairn profiles erase ada ben --yes
  xargs cairn profiles erase --yes < leavers.txt
"""
)
@click.argument("profile_ids", metavar="PROFILE...", nargs=-1, required=True)
@yes_option
@json_option
@service_options("evaluator")
def erase(services: Services, profile_ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Erase profiles for good: attributes, behavior, enrollments, timers and history go, and what is on its way to them.

    Ad platforms are asked to remove them. A keyed hash stays, so that no late event or message brings one back.
    Where nobody can be asked, --yes has to be given.
    """
    ids = [each.removeprefix("profiles/") for each in profile_ids]
    if not yes and not is_asked():
        raise click.UsageError("Nobody is here to be asked: give --yes to erase for good.")
    whom = ids[0] if len(ids) == 1 else f"{len(ids):,} profiles"
    confirm(f"Erase {clean(whom)}? Nothing can bring them back.", yes=yes)

    async def run() -> int:
        erased = 0
        async with services:
            for batch in batches(ids, _ERASED_AT_ONCE):
                answer = await services.evaluator.EraseProfiles(EraseProfilesRequest(profile_ids=batch))
                erased += answer.erased
        return erased

    erased = asyncio.run(run())
    if as_json:
        print_json({"erased": erased, "unknown": len(ids) - erased})
    else:
        unknown = f"; {plural(len(ids) - erased, 'profile')} not known" if erased < len(ids) else ""
        print_note(f"{erased:,} erased{unknown}.")


def profile_resource(profile: str) -> str:
    """`profiles/{id}` of an id, or of a resource name."""
    return f"profiles/{profile.removeprefix('profiles/')}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
