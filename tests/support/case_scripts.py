"""Owns what is done to play a case of the test kit on services, and when.

Before anything is played, the play is rehearsed on the bare machine; a case whose lines do not come of it is left out, and why is told.
"""

import enum
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from case_names import AUDIENCE, HELD, messages_of, renamed_text, walk

from cairn.api.definition.v1 import journey_pb2
from cairn.journey.model import Journey
from cairn.journey.references import check_references
from cairn.journey.state import Kind, ReceiptInput, Transition
from cairn.runtime.clock import now_us
from cairn.testing.journeys import (
    START_US,
    Alarm,
    Case,
    Change,
    End,
    Event,
    Passes,
    Pause,
    Publish,
    Receipt,
    Resume,
    Story,
    explain,
    line,
    read_journeys,
)

SECOND_US: Final = 1_000_000
DEDUP_DAYS: Final = 30
"""How old an event may be that services are sent."""

_OLDEST_US: Final = DEDUP_DAYS * 86_400 * SECOND_US - 600 * SECOND_US
# What is due so soon after a case's last moment would come while others are still played.
_SOON_US: Final = 240 * SECOND_US
# How many profiles are tried until an experiment falls as the case says.
_ATTEMPTS: Final = 40
# Between two things that happen now, in a rehearsal.
_BEAT_US: Final = 200_000
_KINDS: Final = frozenset(kind.name for kind in Kind)


class Way(enum.Enum):
    """How a case is played. Each catches what the other can't.

    APART: each event in a call of its own, to one replica and then the other, with the Scheduler down until all is sent: state goes
    through Postgres between any two inputs, and what was due meanwhile acts before the input, or when the Scheduler is back.
    TOGETHER: the events between two other moments in one call, with the Scheduler up.
    """

    APART = "apart"
    TOGETHER = "together"


class LeftOut(enum.Enum):
    """Why a case can't be played on services."""

    TOO_LONG = f"it is longer than the {DEDUP_DAYS} days that an event may be old"
    CALENDAR = f"its moment of the calendar is not in the last {DEDUP_DAYS} days"
    MACHINE_ONLY = "something happens in it that only a story on the machine can do"
    RECEIPTS = "some receipts come and others do not: services send them all"
    REAL_TIME = (
        "what operators do, or changes of the profile, lie apart in it: they happen now, one after the other"
    )
    NAMELESS = "it names what does not exist, and is not published"
    SOON = "something is due within minutes after its end"
    RINGS = "a timer has to ring in it before an input of its own instant: not with the Scheduler down"
    ASKED_BY_TIMER = "a receipt comes in it for what a timer has asked for: not with the Scheduler down"


class Unplayable(Exception):  # noqa: N818 - the caller skips
    """A case is left out."""

    def __init__(self, reason: LeftOut) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True)
class Send:
    """One call with events."""

    events: tuple[Event, ...]


Act = Send | Change | Publish | Pause | Resume | End | Receipt
_NOW: Final = (Change, Pause, Resume, End)


@dataclass(frozen=True)
class Window:
    """A stretch of real time that stands for one moment of a case. `at_us` counts from the case's beginning."""

    from_us: int
    to_us: int
    at_us: int


@dataclass
class Script:
    """A case prepared to be played in one way.

    `length_us` is as much of it as is played; `is_held`: no receipt comes; `with_receipts`: each is waited for; `base_us` is when
    it began, in real time.
    """

    case: Case
    way: Way
    group: str
    profile_id: str
    acts: tuple[tuple[int, Act], ...]
    length_us: int
    is_cut: bool
    journeys: str
    several: bool
    is_held: bool = False
    with_receipts: bool = False
    base_us: int = 0
    windows: list[Window] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def tag(self) -> str:
        """What its journeys, segments and events have in their names: those of one text are shared by all of its cases."""
        return f"{self.group}h" if self.is_held else self.group

    @property
    def now_us(self) -> int | None:
        """From when on things happen at real time; None if nothing does."""
        return _begins_now(self.acts)

    def text(self, journeys: str) -> str:
        """A YAML text of the case's journeys as they are published for it."""
        return renamed_text(journeys, self.tag, self.is_held)

    def event_name(self, name: str) -> str:
        return f"{name}.{self.tag}"

    def lines(self, transitions: Iterable[Transition], base_us: int, windows: Sequence[Window]) -> list[str]:
        """Transitions as the case's own lines: its names, its moments."""
        found = []
        for each in transitions:
            prefix = f"{self.tag}-"
            if not each.journey_id.startswith(prefix):
                # A journey of another case, which a change of the profile has led into.
                continue
            shift_us = 0
            for window in windows:
                if window.from_us <= each.time_us <= window.to_us:
                    shift_us = each.time_us - base_us - window.at_us
            detail = dict(each.detail)
            for name in ("journey", "channel"):
                if isinstance(detail.get(name), str):
                    detail[name] = (
                        detail[name].replace(prefix, "", 1).removesuffix(HELD).removesuffix(AUDIENCE)
                    )
            if "late_seconds" in detail:
                detail["late_seconds"] -= shift_us / SECOND_US
            own = msgspec.structs.replace(
                each, journey_id=each.journey_id.removeprefix(prefix), detail=detail
            )
            found.append(line(own, base_us + shift_us, self.several))
        return [each for each in found if not self.case.only or _kind(each) in self.case.only]


def prepare(case: Case, way: Way, group: int, number: int) -> Script:
    """A case's script, rehearsed; `group` is the number of its journeys, `number` its own. Raises Unplayable; LookupError when it can't be played and nobody knows why."""
    # Where time passes what is due may ring, unless the rest of the case then comes too late.
    first = _script(case, way, group, number, rests=way is Way.TOGETHER)
    try:
        return _rehearsed(first)
    except Unplayable:
        if way is Way.APART:
            raise
    return _rehearsed(_script(case, way, group, number, rests=False))


def _script(case: Case, way: Way, group: int, number: int, *, rests: bool) -> Script:
    acts, length_us = _acts(case, way, rests)
    begins_us = min((_first(at_us, act) for at_us, act in acts), default=0)
    played_us = min(length_us, _OLDEST_US + begins_us)
    if any(at_us > played_us for at_us, _ in acts):
        raise Unplayable(LeftOut.TOO_LONG)
    if case.start_us is not None:
        is_recent = now_us() - _OLDEST_US < case.start_us + begins_us
        if not is_recent or case.start_us + length_us > now_us() or _begins_now(acts) is not None:
            raise Unplayable(LeftOut.CALENDAR)
    texts = [case.journeys, *(act.journeys for _, act in acts if isinstance(act, Publish))]
    if not _is_publishable(texts):
        raise Unplayable(LeftOut.NAMELESS)
    ids = {each.name for text in texts for each in messages_of(text) if isinstance(each, journey_pb2.Journey)}
    return Script(
        case,
        way,
        # What changes while it is played is its own.
        group=f"own{number}" if len(texts) > 1 or _has_life(acts) else f"g{group}",
        profile_id=f"{case.profile_id}-{number}",
        acts=acts,
        length_us=played_us,
        is_cut=played_us < length_us,
        journeys=case.journeys,
        several=len(ids) > 1,
    )


def _is_publishable(texts: Sequence[str]) -> bool:
    """Whether all that journeys name exists when they are published, one text after the other."""
    known: dict[str, journey_pb2.Journey] = {}
    for text in texts:
        journeys = {each.name: each for each in messages_of(text) if isinstance(each, journey_pb2.Journey)}
        if any(check_references(journeys, known, segments=None).values()):
            return False
        known |= journeys
    return True


def _acts(case: Case, way: Way, rests: bool) -> tuple[tuple[tuple[int, Act], ...], int]:
    """What is done, each with the case's moment of it, and how long the case is. `rests`: events before and after time has passed
    are not of one call."""
    acts: list[tuple[int, Act]] = []
    length_us = 0
    is_open = False
    for happens_us, known_us, moment in case.timed():
        length_us = max(length_us, known_us)
        match moment:
            case Event():
                event = msgspec.structs.replace(moment, at_us=happens_us)
                if is_open and way is Way.TOGETHER and _begins_now(acts) is None:
                    _, last = acts[-1]
                    assert isinstance(last, Send)
                    acts[-1] = (happens_us, Send((*last.events, event)))
                else:
                    acts.append((happens_us, Send((event,))))
                is_open = True
                continue
            case Passes():
                is_open = is_open and not rests
                continue
            case Alarm():
                continue
            case Change() | Publish() | Pause() | Resume() | End() | Receipt():
                acts.append((happens_us, moment))
            case _:
                raise Unplayable(LeftOut.MACHINE_ONLY)
        is_open = False
    return tuple(acts), length_us


def _rehearsed(script: Script) -> Script:
    """Finds out under which conditions the play gives the case's lines. Raises Unplayable, LookupError."""
    case = script.case
    expected = list(case.then)
    own_id = script.profile_id
    draws = _has_experiment(case.journeys)
    receives = any(isinstance(act, Receipt) for _, act in script.acts)
    # Nothing may be due soon after its end either: it would come while others are still played.
    longer_us = _SOON_US
    if case.start_us is not None:
        longer_us += now_us() - case.start_us - script.length_us
    for attempt in range(_ATTEMPTS):
        silent = rehearse(script, receipts=False, longer_us=longer_us)
        heard = rehearse(script, receipts=True, longer_us=longer_us)
        if silent == expected and not receives:
            # If receipts make a difference they are held back.
            script.is_held = heard != expected
            # An experiment falls by the name of its journey as well, and that is another one now.
            if not draws or rehearse(script, receipts=False) == expected:
                break
            script.is_held = False
        elif heard == expected:
            script.with_receipts = receives
            break
        elif not draws:
            raise _why(script)
        # Experiments fall by the profile's id and the journey's: some will do.
        script.profile_id = f"{own_id}-{attempt}"
    else:
        raise _why(script)
    return script


def _why(script: Script) -> Exception:
    case = script.case
    receives = any(isinstance(act, Receipt) for _, act in script.acts)
    rehearsed = rehearse(script, receipts=receives)
    if rehearsed == list(case.then):
        return Unplayable(LeftOut.SOON)
    if receives:
        return Unplayable(LeftOut.ASKED_BY_TIMER if script.way is Way.APART else LeftOut.RECEIPTS)
    if script.now_us is not None:
        return Unplayable(LeftOut.REAL_TIME)
    if script.is_cut:
        return Unplayable(LeftOut.TOO_LONG)
    if script.way is Way.APART and _rung_late(case) != list(case.then):
        return Unplayable(LeftOut.RINGS)
    return LookupError(f"can't be rehearsed {script.way.value}; {explain(case, rehearsed)}")


def _rung_late(case: Case) -> list[str]:
    """What comes of a case if the Scheduler is down until its end."""
    moments = (each for each in case.moments if not isinstance(each, Alarm))
    late = (Alarm(on=False), *moments, Alarm(on=True))
    return msgspec.structs.replace(case, moments=late).told()


def rehearse(script: Script, *, receipts: bool, longer_us: int = 0) -> list[str]:
    """The lines that come of a script on the bare machine: what is played on services, under a virtual clock."""
    case = script.case
    start_us = START_US if case.start_us is None else case.start_us
    first, *others = _readable(script.text(script.journeys))
    story = Story(
        first,
        attributes=dict(case.attributes),
        time_zone=case.time_zone,
        profile_id=script.profile_id,
        start_us=start_us,
    )
    for other in others:
        story.publish(other)
    story.alarm_is_on = False
    received: set[str] = set()
    windows: list[Window] = []
    begins_now = script.now_us
    clock_us = start_us + (script.length_us if begins_now is None else begins_now)

    def receive() -> None:
        for each in story.requested if receipts else ():
            if each.activation_id not in received:
                received.add(each.activation_id)
                story.take(ReceiptInput(each.activation_id))

    def ring(until_us: int) -> None:
        story.now_us = max(story.now_us, until_us)
        story.happen(Alarm(on=False))
        while story.timers and (due_us := min(story.timers.values())) <= until_us:
            story.alarm_is_on = True
            story.ring(due_us)
            story.alarm_is_on = False
            receive()

    for number, (at_us, act) in enumerate(script.acts):
        is_now = (
            begins_now is not None
            and happens_now(act, at_us, begins_now)
            and (windows or not isinstance(act, Send))
        )
        if is_now:
            clock_us += _BEAT_US
            windows.append(Window(clock_us, clock_us, at_us))
        match act:
            case Send(events):
                for place, each in enumerate(events):
                    assert each.at_us is not None
                    happens_us = clock_us - start_us if is_now else each.at_us
                    story.happen(
                        msgspec.structs.replace(
                            each,
                            name=script.event_name(each.name),
                            at_us=happens_us,
                            event_id=each.event_id or f"e{number}-{place}",
                        )
                    )
            case Change():
                story.happen(msgspec.structs.replace(act, at_us=clock_us - start_us))
            case Publish():
                for each in _readable(script.text(act.journeys)):
                    story.publish(each)
            case Pause() | Resume() | End():
                story.now_us = clock_us
                named = f"{script.tag}-{act.journey}" if act.journey else ""
                story.happen(msgspec.structs.replace(act, journey=named))
                # Everybody is told at once, whatever the Scheduler does.
                story.happen(Alarm(on=True))
                story.alarm_is_on = False
            case Receipt():
                pass
        receive()
        if script.way is Way.TOGETHER:
            ring(clock_us)
    ring(clock_us + longer_us)
    return script.lines(story.transitions, start_us, windows)


def _first(at_us: int, act: Act) -> int:
    """When the first of it happens."""
    return min(each.at_us or 0 for each in act.events) if isinstance(act, Send) else at_us


@functools.lru_cache
def _readable(text: str) -> Sequence[Journey | str]:
    """What a story takes for a text: its journeys, read once for all rehearsals, or the text if segments belong to it."""
    journeys, segments = read_journeys(text)
    return (text,) if segments else journeys


def _begins_now(acts: Sequence[tuple[int, Act]]) -> int | None:
    return next((at_us for at_us, act in acts if isinstance(act, _NOW)), None)


def _has_experiment(journeys: str) -> bool:
    return any(
        isinstance(each, journey_pb2.Experiment) for text in messages_of(journeys) for each in walk(text)
    )


def _has_life(acts: Sequence[tuple[int, Act]]) -> bool:
    return any(isinstance(act, Pause | Resume | End) for _, act in acts)


def happens_now(act: Act, at_us: int, begins_now_us: int) -> bool:
    """Whether something happens at real time: an operator's word, a change, and an event that comes after one."""
    return isinstance(act, _NOW) or (isinstance(act, Send) and at_us >= begins_now_us)


def _kind(text: str) -> str:
    return next((word for word in text.split()[1:3] if word in _KINDS), "")
