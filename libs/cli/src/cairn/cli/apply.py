"""Owns `cairn apply`: from files to connections, templates, the sending policy, segments and live journeys."""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import click
import grpc

from cairn.api.activation.v1 import activation_pb2 as activation
from cairn.api.definition.v1 import definition_pb2 as definition
from cairn.api.definition.v1.journey_pb2 import Journey, Segment
from cairn.cli.connect import Services
from cairn.cli.documents import Source, read_sources, segment_drafts
from cairn.cli.failures import CommandError
from cairn.cli.options import json_option, service_options
from cairn.cli.output import console, print_json, print_note, print_table, state_text
from cairn.runtime.errors import error_from_rpc

_POLL_SECONDS = 0.1
_FIRST_WATCHER_SECONDS = 3.0
_ITEM = re.compile(r"items\[(\d+)\]\.?")


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one document: `result` is created, updated, unchanged or published; `version` 0 says a draft."""

    kind: str
    name: str
    result: str
    version: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What an application did. All journeys are live where `revision` is served; 0 when none was published."""

    applied: tuple[Applied, ...]
    revision: int = 0


async def apply_sources(services: Services, sources: Sequence[Source], *, publish: bool = True) -> Result:
    """Put all that journeys need, save the journeys' drafts, and publish the journeys as one set.

    Raises CommandError with every violation that the services find, each with its file and line.
    """
    applied: list[Applied] = []
    findings: list[str] = []
    drafts: dict[str, Journey] = {}
    journeys = []
    for source in _in_order(sources):
        try:
            if source.document.kind == "journey":
                done, drafts[source.name] = await _save_journey(services, source)
                journeys.append(source)
            else:
                done = await _put(services, source)
            applied.append(done)
        except grpc.aio.AioRpcError as error:
            findings += _findings(error, source)
    if findings:
        raise CommandError("the services refuse this; no journey was published.", findings)
    if not publish or not journeys:
        return Result(tuple(applied))
    request = definition.PublishJourneysRequest(
        items=[
            definition.PublishItem(name=drafts[each.name].name, etag=drafts[each.name].etag)
            for each in journeys
        ]
    )
    try:
        published = await services.definition.PublishJourneys(request)
    except grpc.aio.AioRpcError as error:
        raise CommandError(
            "no journey was published; all is saved, the journeys as drafts.",
            _publish_findings(error, journeys),
        ) from error
    versions = {version.journey.name.rpartition("/")[2]: version.version for version in published.versions}
    return Result(
        tuple(_with_version(each, versions, drafts) if each.kind == "journey" else each for each in applied),
        published.revision,
    )


async def wait_live(
    services: Services, revision: int, timeout_s: float, done: str = "published"
) -> list[str]:
    """Wait until every live watcher of Definition serves a revision; return their ids, none when there is none.

    CommandError when one still lags after `timeout_s` seconds; it tells that what was asked is `done` nonetheless.
    """
    started = time.monotonic()
    while True:
        watchers = (await services.definition.ListWatchers(definition.ListWatchersRequest())).watchers
        waited = time.monotonic() - started
        behind = [each.watcher for each in watchers if each.revision < revision]
        if watchers and not behind:
            return sorted(each.watcher for each in watchers)
        if not watchers and waited > _FIRST_WATCHER_SECONDS:
            return []
        if waited > timeout_s:
            raise CommandError(
                f"{done}, but not live everywhere after {timeout_s:.0f} s: {', '.join(behind)} lag behind revision "
                f"{revision}; they will serve it once they are back."
            )
        await asyncio.sleep(_POLL_SECONDS)


def _in_order(sources: Sequence[Source]) -> list[Source]:
    """What is named comes before what names it; there is no ring of segments, or the files would have been refused."""
    order = ("connection", "template", "policy", "segment", "journey")
    drafts = segment_drafts(sources)
    placed: dict[str, int] = {}

    def place(name: str) -> None:
        if name in drafts and name not in placed:
            for named in drafts[name].names:
                place(named)
            placed[name] = len(placed)

    for name in drafts:
        place(name)
    return sorted(
        sources,
        key=lambda each: (
            order.index(each.document.kind),
            placed[each.name] if each.document.kind == "segment" else 0,
        ),
    )


async def _save_journey(services: Services, source: Source) -> tuple[Applied, Journey]:
    message = source.document.message
    assert isinstance(message, Journey)
    before = await _get_journey(services, source.name)
    request = definition.UpdateJourneyRequest(journey=message, allow_missing=True)
    saved = (await services.definition.UpdateJourney(request)).journey
    return Applied("journey", source.name, _result(before and before.etag, saved.etag), 0), _with_latest(
        saved, before
    )


def _with_latest(saved: Journey, before: Journey | None) -> Journey:
    kept = Journey(name=saved.name, etag=saved.etag)
    kept.latest_version = before.latest_version if before else 0
    return kept


async def _get_journey(services: Services, name: str) -> Journey | None:
    try:
        return (
            await services.definition.GetJourney(definition.GetJourneyRequest(name=f"journeys/{name}"))
        ).journey
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise


async def _put(services: Services, source: Source) -> Applied:
    stub, kind, name = services.activation, source.document.kind, source.name
    message = source.document.message
    before = await _present_etag(services, kind, name)
    if isinstance(message, Segment):
        saved = await services.definition.PutSegment(definition.PutSegmentRequest(segment=message))
        return Applied(kind, name, _result(before, saved.segment.etag))
    if isinstance(message, activation.Connection):
        put = await stub.PutConnection(activation.PutConnectionRequest(connection=message))
        return Applied(kind, name, _result(before, put.connection.etag))
    if isinstance(message, activation.SendingPolicy):
        kept = await stub.PutSendingPolicy(activation.PutSendingPolicyRequest(policy=message))
        return Applied(kind, name, _result(before, kept.policy.etag))
    assert isinstance(message, activation.Template)
    answer = await stub.PutTemplate(activation.PutTemplateRequest(template=message))
    return Applied(kind, name, _result(before, answer.template.etag))


async def _present_etag(services: Services, kind: str, name: str) -> str | None:
    stub = services.activation
    try:
        if kind == "connection":
            request = activation.GetConnectionRequest(name=f"connections/{name}")
            return (await stub.GetConnection(request)).connection.etag
        if kind == "segment":
            asked = definition.GetSegmentRequest(name=f"segments/{name}")
            return (await services.definition.GetSegment(asked)).segment.etag
        if kind == "policy":
            policy = (await stub.GetSendingPolicy(activation.GetSendingPolicyRequest())).policy
            return policy.etag or None
        return (await stub.GetTemplate(activation.GetTemplateRequest(name=f"templates/{name}"))).template.etag
    except grpc.aio.AioRpcError as error:
        # A name that can't exist is a violation that the put will tell of.
        if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
            return None
        raise


def _result(before: str | None, after: str) -> str:
    if before is None:
        return "created"
    return "unchanged" if before == after else "updated"


def _with_version(each: Applied, versions: dict[str, int], drafts: dict[str, Journey]) -> Applied:
    version = versions[each.name]
    result = "published" if version > drafts[each.name].latest_version else "unchanged"
    return Applied(each.kind, each.name, result, version)


def _findings(error: grpc.aio.AioRpcError, source: Source) -> list[str]:
    """What a service said of one document, by file and line. What is not about the document is raised again."""
    meant = error_from_rpc(error)
    if meant.code not in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED):
        raise error
    if not meant.violations:
        return [source.finding("", meant.message)]
    return [
        source.finding(each.field.removeprefix("journey."), each.description) for each in meant.violations
    ]


def _publish_findings(error: grpc.aio.AioRpcError, journeys: Sequence[Source]) -> list[str]:
    meant = error_from_rpc(error)
    if meant.code is not grpc.StatusCode.INVALID_ARGUMENT:
        raise error
    lines = []
    for violation in meant.violations:
        item = _ITEM.match(violation.field)
        if item and int(item[1]) < len(journeys):
            source = journeys[int(item[1])]
            text = violation.description.removeprefix(f"journeys/{source.name}: ")
            lines.append(source.finding(violation.field[item.end() :], text))
        else:
            lines.append(f"{violation.field}: {violation.description}")
    return lines or [meant.message]


@click.command(
    epilog="""\b
Examples:
  cairn apply -f deploy/examples/templates.yaml -f deploy/examples/welcome.yaml
  cairn apply -f journeys/ --json
  cairn apply -f cart.yaml --no-publish
  cat cart.yaml | cairn apply -f -
"""
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="YAML files, folders of them, or stdin.",
)
@click.option(
    "--publish/--no-publish", default=True, help="Whether to publish the journeys, or to save drafts only."
)
@click.option(
    "--wait/--no-wait", default=True, help="Whether to wait until the journeys are live everywhere."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600),
    default=60.0,
    show_default=True,
    help="Seconds to wait at most.",
)
@json_option
@service_options("definition", "activation")
def apply(
    services: Services, files: tuple[str, ...], publish: bool, wait: bool, timeout: float, as_json: bool
) -> None:
    """Save the connections, templates, policy, segments and journeys of files, and publish the journeys as one set.

    Nothing is sent while anything is wrong with a file: the violations of all files are told, with file and line.
    What only the services can know, such as a template that is missing, they tell before anything is published.
    Returns when every live Evaluator serves the journeys.
    """
    sources = read_sources(files)
    if not sources:
        raise CommandError("the files hold no document.")

    async def run() -> tuple[Result, list[str] | None]:
        async with services:
            result = await apply_sources(services, sources, publish=publish)
            if not result.revision or not wait:
                return result, None
            with console(stderr=True).status(
                f"Waiting until revision {result.revision} is live everywhere ..."
            ):
                return result, await wait_live(services, result.revision, timeout)

    result, watchers = asyncio.run(run())
    if as_json:
        for each in result.applied:
            version = {"version": each.version} if each.version else {}
            print_json({"kind": each.kind, "name": each.name, "result": each.result, **version})
        if result.revision:
            print_json({"revision": result.revision, "live": watchers})
        return
    print_table(
        ("kind", "name", "result", "version"),
        [(each.kind, each.name, state_text(each.result), str(each.version or "")) for each in result.applied],
    )
    if changed := [
        each.name for each in result.applied if each.kind == "segment" and each.result == "updated"
    ]:
        print_note(
            f"Journeys that use {', '.join(changed)} and are not among these keep the old criteria until they are published again."
        )
    if watchers:
        print_note(
            f"Live everywhere: {len(watchers)} Evaluator{'s' * (len(watchers) > 1)} at revision {result.revision}."
        )
    elif watchers is not None:
        print_note(
            f"Published as revision {result.revision}; no Evaluator is live at the moment to serve it."
        )
