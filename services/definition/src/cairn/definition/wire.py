"""Owns the form of requests and answers: resource names, page sizes and tokens, rows to messages. Of segments: `wire_segments`.

Refuses what is malformed, with the field's path; what a journey may contain is not decided here.
"""

import base64
import binascii
import re
from collections.abc import Sequence

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.definition.v1.journey_pb2 import (
    Journey,
    JourneyLife,
    JourneyState,
    JourneyVersion,
    Pause,
    PauseMode,
)
from cairn.definition.packing import unpack_segments
from cairn.definition.store import JourneyRow, Page, VersionRow, WatcherRow
from cairn.definition.store_lives import Changes, LifeRow, PauseRow
from cairn.journey.difference import Difference
from cairn.runtime.clock import to_timestamp
from cairn.runtime.errors import CairnError, FieldViolation, invalid

DEFAULT_PAGE = 100
MAX_PAGE = 1000
MAX_ID_CHARS = 64
MAX_VERSION = 2**31 - 1
"""Also stands for "newer than all" where versions are listed downwards."""

_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_JOURNEY = re.compile(rf"(?:journeys/)?({_ID})")
_VERSION = re.compile(rf"journeys/({_ID})/versions/([1-9][0-9]{{0,8}})")
_ID_RULE = "an id matches [a-z]([a-z0-9-]{0,61}[a-z0-9])?"


def refuse(field: str, description: str) -> CairnError:
    """INVALID_ARGUMENT for one field of a request."""
    return invalid(f"{field} {description}.", [FieldViolation(field, description)])


def parse_journey_name(field: str, name: str) -> str:
    """The id in `journeys/{id}` or the id alone."""
    matched = _JOURNEY.fullmatch(name)
    if matched is None:
        raise refuse(field, f"has to be journeys/{{id}}; {_ID_RULE}")
    return matched[1]


def parse_version_name(field: str, name: str) -> tuple[str, int]:
    """Id and number in `journeys/{id}/versions/{version}`."""
    matched = _VERSION.fullmatch(name)
    if matched is None:
        raise refuse(
            field, f"has to be journeys/{{id}}/versions/{{version}}; {_ID_RULE}, a version counts from 1"
        )
    return matched[1], int(matched[2])


def parse_page(page_size: int, page_token: str) -> tuple[int, str]:
    """How many to list, and the key after which to go on: empty on the first page."""
    if not 0 <= page_size <= MAX_PAGE:
        raise refuse("page_size", f"is {page_size}; it may be 1 to {MAX_PAGE:,}, or 0 for {DEFAULT_PAGE}")
    try:
        key = base64.b64decode(page_token, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise _foreign_token() from None
    return page_size or DEFAULT_PAGE, key


def parse_journey_key(key: str) -> str:
    """The journey id that a page token of ListJourneys holds, or "" for the first page."""
    if key and not _JOURNEY.fullmatch(key):
        raise _foreign_token()
    return key


def parse_version_key(key: str) -> int:
    """The version number that a page token of ListJourneyVersions holds; above all of them for the first page."""
    if not key:
        return MAX_VERSION
    if not re.fullmatch(r"[1-9][0-9]{0,9}", key):
        raise _foreign_token()
    return min(int(key), MAX_VERSION)


def page_token(key: str) -> str:
    """The token from which `parse_page` has the key back."""
    return base64.urlsafe_b64encode(key.encode("ascii")).decode("ascii")


def parse_request_id(request_id: str) -> str:
    """The id that makes a call repeatable, or "" when there is none."""
    if len(request_id) > MAX_ID_CHARS or "\0" in request_id:
        raise refuse("request_id", f"may have at most {MAX_ID_CHARS} characters, none of them a zero byte")
    return request_id


def parse_watcher(watcher: str) -> str:
    """A watcher's own id."""
    if not 0 < len(watcher) <= MAX_ID_CHARS or "\0" in watcher:
        raise refuse("watcher", f"has to have 1 to {MAX_ID_CHARS} characters, none of them a zero byte")
    return watcher


def parse_revision(field: str, revision: int) -> int:
    """A revision that a caller has reached."""
    if revision < 0:
        raise refuse(field, f"is {revision}; revisions count from 0")
    return revision


def parse_pause_mode(mode: PauseMode.ValueType) -> str:
    """What a pause does: FREEZE, RUN or DROP."""
    if mode not in PauseMode.values():
        raise refuse("mode", f"is {mode}, which is no mode of a pause; say FREEZE, RUN or DROP")
    return PauseMode.Name(mode or PauseMode.PAUSE_MODE_FREEZE).removeprefix("PAUSE_MODE_")


def parse_compared(from_version: int, to_version: int) -> tuple[int, int]:
    """The numbers of two versions to compare; 0 as the second one is the draft."""
    if from_version < 1:
        raise refuse("from_version", f"is {from_version}; versions count from 1")
    if to_version < 0:
        raise refuse("to_version", f"is {to_version}; versions count from 1, and 0 is the draft")
    return from_version, to_version


def parse_items(items: Sequence[pb.PublishItem]) -> list[tuple[str, str]]:
    """Journey id and expected etag ("" for any) of each journey to publish; every violation at once."""
    if not 1 <= len(items) <= 100:
        raise refuse("items", f"has {len(items)}; publish 1 to 100 journeys at once")
    parsed: list[tuple[str, str]] = []
    violations: list[FieldViolation] = []
    for index, item in enumerate(items):
        field = f"items[{index}].name"
        try:
            journey_id = parse_journey_name(field, item.name)
        except CairnError as error:
            violations += error.violations
            continue
        if any(journey_id == other for other, _ in parsed):
            violations.append(FieldViolation(field, f"names journeys/{journey_id} a second time"))
        parsed.append((journey_id, item.etag))
    if violations:
        raise invalid("The journeys to publish are not named as they have to be.", violations)
    return parsed


def render_journey(row: JourneyRow) -> Journey:
    """The draft with what only we write."""
    journey = Journey.FromString(row.draft)
    journey.state = JourneyState.Value(f"JOURNEY_STATE_{row.state}")
    journey.etag = row.etag
    journey.latest_version = row.latest_version
    journey.create_time.CopyFrom(to_timestamp(row.create_us))
    journey.update_time.CopyFrom(to_timestamp(row.update_us))
    if row.pause_mode:
        journey.pause.CopyFrom(_pause(PauseRow(row.pause_mode, row.pause_us)))
    return journey


def render_created(row: JourneyRow) -> pb.CreateJourneyResponse:
    """The answer to CreateJourney."""
    return pb.CreateJourneyResponse(journey=render_journey(row))


def render_updated(row: JourneyRow) -> pb.UpdateJourneyResponse:
    """The answer to UpdateJourney."""
    return pb.UpdateJourneyResponse(journey=render_journey(row))


def render_paused(outcome: tuple[JourneyRow, int]) -> pb.PauseJourneyResponse:
    """The answer to PauseJourney."""
    return pb.PauseJourneyResponse(journey=render_journey(outcome[0]), revision=outcome[1])


def render_resumed(outcome: tuple[JourneyRow, int]) -> pb.ResumeJourneyResponse:
    """The answer to ResumeJourney."""
    return pb.ResumeJourneyResponse(journey=render_journey(outcome[0]), revision=outcome[1])


def render_ended(outcome: tuple[JourneyRow, int]) -> pb.EndJourneyResponse:
    """The answer to EndJourney."""
    return pb.EndJourneyResponse(journey=render_journey(outcome[0]), revision=outcome[1])


def render_journey_page(page: Page[JourneyRow]) -> pb.ListJourneysResponse:
    """The token of a page that has more after it is its last id."""
    return pb.ListJourneysResponse(
        journeys=[render_journey(row) for row in page.rows],
        next_page_token=page_token(page.rows[-1].journey_id) if page.more else "",
    )


def render_version(row: VersionRow) -> JourneyVersion:
    """A version; its journey carries nothing that could change later."""
    return JourneyVersion(
        name=f"journeys/{row.journey_id}/versions/{row.version}",
        version=row.version,
        journey=Journey.FromString(row.document),
        publish_time=to_timestamp(row.publish_us),
        revision=row.revision,
        segments=unpack_segments(row.segments),
    )


def render_life(row: LifeRow) -> JourneyLife:
    """A life as watchers are told of it."""
    return JourneyLife(
        journey=f"journeys/{row.journey_id}",
        state=JourneyState.Value(f"JOURNEY_STATE_{row.state}"),
        pauses=[_pause(one) for one in row.pauses],
        end_time=None if row.end_us is None else to_timestamp(row.end_us),
        removes=row.removes,
        revision=row.revision,
    )


def render_version_page(page: Page[VersionRow]) -> pb.ListJourneyVersionsResponse:
    """The token of a page that has more after it is its last number."""
    return pb.ListJourneyVersionsResponse(
        journey_versions=[render_version(row) for row in page.rows],
        next_page_token=page_token(str(page.rows[-1].version)) if page.more else "",
    )


def render_published(rows: Sequence[VersionRow]) -> pb.PublishJourneysResponse:
    """Versions in the order of the request, and the revision at which all of them are live."""
    return pb.PublishJourneysResponse(
        versions=[render_version(row) for row in rows], revision=max(row.revision for row in rows)
    )


def render_watcher(row: WatcherRow) -> pb.Watcher:
    """A live watcher."""
    return pb.Watcher(watcher=row.watcher, revision=row.revision, seen_time=to_timestamp(row.seen_us))


def render_news(changes: Changes) -> pb.WatchJourneysResponse:
    """One answer of WatchJourneys."""
    return pb.WatchJourneysResponse(
        versions=[render_version(row) for row in changes.versions],
        lives=[render_life(row) for row in changes.lives],
        revision=changes.reached,
        caught_up=changes.reached >= changes.newest,
    )


def render_changes(changes: Changes) -> pb.ListJourneyChangesResponse:
    """The answer to ListJourneyChanges."""
    return pb.ListJourneyChangesResponse(
        versions=[render_version(row) for row in changes.versions],
        lives=[render_life(row) for row in changes.lives],
        revision=changes.reached,
        caught_up=changes.reached >= changes.newest,
    )


def render_differences(differences: Sequence[Difference]) -> pb.DiffJourneyVersionsResponse:
    """The answer to DiffJourneyVersions."""
    return pb.DiffJourneyVersionsResponse(
        differences=[
            pb.JourneyDifference(
                kind=pb.DifferenceKind.ValueType(one.kind),
                element=one.element,
                field=one.field,
                before=one.before,
                after=one.after,
            )
            for one in differences
        ]
    )


def _pause(row: PauseRow) -> Pause:
    return Pause(
        mode=PauseMode.Value(f"PAUSE_MODE_{row.mode}"),
        pause_time=to_timestamp(row.pause_us),
        resume_time=None if row.resume_us is None else to_timestamp(row.resume_us),
    )


def _foreign_token() -> CairnError:
    return refuse("page_token", "is not a next_page_token of this call")
