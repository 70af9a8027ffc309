"""Owns profiles in bulk: reads rows, writes those that no journey needs to look at as one statement a bucket, and sends all others through the lanes.

The short way is another writer beside the lanes, as another replica is: compare-and-swap keeps both right. What it can't be sure of takes
the lanes' way, which is right for everything.
"""

import asyncio
from collections.abc import AsyncIterable, Sequence
from typing import Any, Final

import msgspec

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.evaluator import store, store_bulk, store_erasure
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.erasing import Eraser
from cairn.evaluator.evaluation import decode_standings, merge
from cairn.evaluator.inputs import ProfileArrival, Result
from cairn.evaluator.intake import MAX_ITEMS, Intake
from cairn.evaluator.store import Appendix, ProfileRow, ProfileWrite, to_json
from cairn.evaluator.wire import MAX_ITEM_BYTES, Refused, check_id_and_zone, too_large_profile
from cairn.journey.state import same_json
from cairn.postgres.bucket import bucket_of
from cairn.postgres.pool import Pool, translate_errors
from cairn.runtime.clock import now_us
from cairn.runtime.errors import CairnError, FieldViolation, invalid

MAX_REFUSALS: Final = 10_000
"""How many refusals a call tells one by one."""

MAX_DEPTH: Final = 24
"""How deep lists and objects of an attribute may lie in each other: protobuf reads 100 levels, and a JSON level takes up to three."""

_PORTION: Final = 500
_RETRY_SECONDS: Final = 0.05
# Numbers are floats, as those of a Struct are: what a criteria sees never depends on the way that a profile came.
_OBJECT: Final = msgspec.json.Decoder(dict[str, float | str | bool | list[Any] | dict[str, Any] | None])

_Place = tuple[int, ProfileArrival]
"""A profile to be described, with its place in the call."""


class Importer:
    """Takes calls of ImportProfiles."""

    def __init__(
        self, pool: Pool, bucket_count: int, book: JourneyBook, intake: Intake, eraser: Eraser
    ) -> None:
        self._pool = pool
        self._bucket_count = bucket_count
        self._book = book
        self._intake = intake
        self._eraser = eraser
        # How many erasures of each bucket are known; who makes profiles has to know of all.
        self._erasures: dict[int, int] = {}
        # Whether the last rows of a bucket were mostly new: then the next ones are taken to be, and nothing is read first.
        self._is_fresh: dict[int, bool] = {}

    async def take(self, requests: AsyncIterable[pb.ImportProfilesRequest]) -> pb.ImportProfilesResponse:
        """Describes the profiles of a call, in order; durable, and acted on, when it returns."""
        self._book.require()
        answer = pb.ImportProfilesResponse()
        replace: bool | None = None
        first = 0
        writing: asyncio.Task[list[tuple[int, Refused]]] | None = None
        try:
            async for request in requests:
                if replace is None:
                    replace = _is_replacing(request.mode)
                # While the rows before are being written, these are read.
                arrivals, refusals = read_rows(request.profiles, first, replace, now_us())
                first += len(request.profiles.profile_ids)
                _note(answer, refusals)
                if writing is not None:
                    _note(answer, await writing)
                writing = asyncio.create_task(self._write(arrivals))
            if writing is not None:
                _note(answer, await writing)
        finally:
            if writing is not None:
                writing.cancel()
        answer.accepted = first - answer.refused
        answer.refusals.sort(key=lambda refusal: refusal.index)
        return answer

    async def _write(self, arrivals: Sequence[_Place]) -> list[tuple[int, Refused]]:
        """Writes a message's rows, bucket by bucket side by side; those refused."""
        buckets: dict[int, list[_Place]] = {}
        for place in arrivals:
            buckets.setdefault(bucket_of(place[1].profile_id, self._bucket_count), []).append(place)
        refused = await asyncio.gather(
            *(self._write_bucket(bucket, places) for bucket, places in sorted(buckets.items()))
        )
        return [each for refusals in refused for each in refusals]

    async def _write_bucket(self, bucket: int, places: list[_Place]) -> list[tuple[int, Refused]]:
        refused: list[tuple[int, Refused]] = []
        while places:
            # One id more than once: each at its turn.
            turn: dict[str, _Place] = {}
            later: list[_Place] = []
            for place in places:
                if turn.setdefault(place[1].profile_id, place) is not place:
                    later.append(place)
            with translate_errors():
                left = await self._write_short(bucket, dict(sorted(turn.items())))
            refused += await self._through_lanes(left)
            places = later
        return refused

    async def _write_short(self, bucket: int, turn: dict[str, _Place]) -> list[_Place]:
        """Writes who can be written at once; returns all others."""
        if self._book.live.by_profile:
            # A change of a profile can begin a journey.
            return list(turn.values())
        left: dict[str, _Place] = {}
        tried = self._is_fresh.get(bucket, True)
        known = await self._insert(bucket, turn, left) if tried else turn
        rows = {row.profile_id: row for row in await store.load_profiles(self._pool, bucket, list(known))}
        self._is_fresh[bucket] = 2 * len(rows) < len(turn)
        writes: list[ProfileWrite] = []
        missing: dict[str, _Place] = {}
        now = now_us()
        for profile_id, place in known.items():
            row = rows.get(profile_id)
            if row is None:
                missing[profile_id] = place
            elif not _change(row, place[1], writes, now):
                left[profile_id] = place
        if writes and not await store.write_batch(self._pool, bucket, writes, Appendix(), now):
            # Somebody was faster with one of them, and none is written.
            left |= {write.profile_id: known[write.profile_id] for write in writes}
        # Who was there a moment ago, and is not any more, is the lanes' matter.
        left |= missing if tried or not missing else await self._insert(bucket, missing, left)
        return list(left.values())

    async def _insert(
        self, bucket: int, turn: dict[str, _Place], left: dict[str, _Place]
    ) -> dict[str, _Place]:
        """Inserts who is not there; returns those who are. Who was erased goes to `left`: to be made anew is the lanes' matter."""
        if bucket not in self._erasures:
            self._erasures[bucket] = await store_erasure.open_bucket(self._pool, bucket)
        number, candidates = self._erasures[bucket], turn
        if number:
            erased = await self._eraser.find(bucket, list(turn))
            left |= {profile_id: turn[profile_id] for profile_id in erased}
            candidates = {profile_id: place for profile_id, place in turn.items() if profile_id not in erased}
        new = [
            (profile_id, to_json(merge({}, arrival)), arrival.time_zone)
            for profile_id, (_, arrival) in candidates.items()
        ]
        inserted = await store_bulk.insert_profiles(self._pool, bucket, new, number, now_us())
        if inserted is None:
            # An erasure that was not known here.
            del self._erasures[bucket]
            left |= candidates
            return {}
        return {profile_id: place for profile_id, place in candidates.items() if profile_id not in inserted}

    async def _through_lanes(self, places: Sequence[_Place]) -> list[tuple[int, Refused]]:
        """Describes profiles as UpsertProfiles does, a portion at a time so that the lanes keep room for events."""
        refused: list[tuple[int, Refused]] = []
        for start in range(0, len(places), _PORTION):
            portion = places[start : start + _PORTION]
            results = await self._describe([arrival for _, arrival in portion])
            for (index, _), result in zip(portion, results, strict=True):
                if isinstance(result, Refused):
                    refused.append((index, result))
                elif result is Result.FAILED:
                    defect = Refused(
                        ErrorReason.ERROR_REASON_INTERNAL, "a defect of ours; the log tells more"
                    )
                    refused.append((index, defect))
        return refused

    async def _describe(self, arrivals: Sequence[ProfileArrival]) -> list[Result | Refused]:
        while True:
            await self._intake.room()
            try:
                results = await self._intake.describe(arrivals)
            except CairnError as error:
                if error.reason != ErrorReason.ERROR_REASON_OVERLOADED:
                    raise
            else:
                if Result.LATER not in results:
                    return results
            # Bulk waits for room, and for journeys whose versions are still on their way.
            await asyncio.sleep(_RETRY_SECONDS)


def read_rows(
    rows: pb.ProfileRows, first: int, replace: bool, arrival_us: int
) -> tuple[list[_Place], list[tuple[int, Refused]]]:
    """The profiles of a message, and those refused; `first` is the place of its first profile in the call. INVALID_ARGUMENT for columns
    that don't belong together."""
    ids, texts, zones = list(rows.profile_ids), list(rows.attributes), list(rows.time_zones)
    _check_columns(len(ids), len(texts), len(zones))
    places: list[_Place] = []
    refused: list[tuple[int, Refused]] = []
    zones = zones or [""] * len(ids)
    for index, (profile_id, text, zone) in enumerate(zip(ids, texts, zones, strict=True), start=first):
        try:
            check_id_and_zone(profile_id, zone)
            attributes = read_attributes(text, len(profile_id))
        except Refused as refusal:
            refused.append((index, refusal))
        else:
            places.append((index, ProfileArrival(profile_id, attributes, zone, replace, arrival_us)))
    return places, refused


def read_attributes(text: str, id_length: int) -> dict[str, Any]:
    """Attributes as they are kept, from JSON; Refused when they can't be."""
    if len(text) + id_length > MAX_ITEM_BYTES:
        raise too_large_profile(len(text) + id_length)
    try:
        attributes = _OBJECT.decode(text)
        for name, value in attributes.items():
            if isinstance(value, dict | list):
                attributes[name] = _floats(value, MAX_DEPTH - 1)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused(
            ErrorReason.ERROR_REASON_INVALID_ARGUMENT, f"attributes are no JSON object: {error}"[:300]
        ) from None
    return attributes


def _floats(value: Any, left: int) -> Any:
    """A list or an object with its numbers as floats."""
    if not left:
        raise Refused(
            ErrorReason.ERROR_REASON_INVALID_ARGUMENT,
            f"attributes are nested too deeply; there are at most {MAX_DEPTH} levels",
        )
    if isinstance(value, dict):
        return {name: _floats(each, left - 1) for name, each in value.items()}
    if isinstance(value, list):
        return [_floats(each, left - 1) for each in value]
    return float(value) if type(value) is int else value


def _change(row: ProfileRow, arrival: ProfileArrival, writes: list[ProfileWrite], now: int) -> bool:
    """Changes a profile that is there: what is to be written goes to `writes`. False when a journey has to look at it."""
    if row.standings != "{}":
        standings = decode_standings(row.standings).values()
        if any(_is_concerned(each) for each in standings):
            return False
    before = msgspec.json.decode(row.attributes)
    attributes = merge(before, arrival)
    time_zone = arrival.time_zone or row.time_zone
    if time_zone == row.time_zone and same_json(attributes, before):
        return True
    text = to_json(attributes)
    if len(text) + len(row.profile_id) > MAX_ITEM_BYTES:
        # The lanes say why it is refused.
        return False
    write = ProfileWrite(row.profile_id, row.revision + 1, text, time_zone, row.standings)
    write.update_us = max(now, row.update_us + 1)
    writes.append(write)
    return True


def _is_concerned(standing: Any) -> bool:
    """Whether a change of the profile may matter to how it stands with a journey."""
    enrollment = standing.enrollment
    return standing.remembered is not None or (enrollment is not None and enrollment.is_open)


def _is_replacing(mode: "pb.UpsertMode.ValueType") -> bool:
    if mode not in pb.UpsertMode.values():
        raise invalid("mode is no mode of an upsert.", [FieldViolation("mode", "say MERGE or REPLACE")])
    return mode == pb.UPSERT_MODE_REPLACE


def _check_columns(ids: int, texts: int, zones: int) -> None:
    violations = []
    if not 1 <= ids <= MAX_ITEMS:
        violations.append(
            FieldViolation("profiles.profile_ids", f"has {ids} items; a message takes 1 to {MAX_ITEMS}")
        )
    if texts != ids:
        violations.append(
            FieldViolation("profiles.attributes", f"has {texts} items; there are {ids} profile_ids")
        )
    if zones not in (0, ids):
        violations.append(
            FieldViolation("profiles.time_zones", f"has {zones} items; there are {ids} profile_ids, or none")
        )
    if violations:
        raise invalid("The columns don't make rows.", violations)


def _note(answer: pb.ImportProfilesResponse, refused: Sequence[tuple[int, Refused]]) -> None:
    answer.refused += len(refused)
    for index, refusal in refused[: MAX_REFUSALS - len(answer.refusals)]:
        answer.refusals.add(index=index, reason=refusal.reason, message=refusal.message)
