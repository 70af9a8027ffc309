"""Owns the case: what is given, what happens, and the timeline that has to come of it, as data that any engine can play.

given(journey).when("cart_add").after("3h").then("0s ENTERED cart", ...)
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from cairn.journey.state import Kind
from cairn.testing.moments import Event, Moment, Passes, passes
from cairn.testing.story import START_US, Story


class Place(msgspec.Struct, frozen=True):
    """Where a case is written: the file, the line where it begins, and the line of each line of its timeline."""

    file: str
    line: int
    then: tuple[int, ...] = ()


class Case(msgspec.Struct, frozen=True):
    """One case, in words and as data: the journeys' YAML, what happens, and the whole timeline that must come of it.

    `only` names kinds of transition: then the timeline has lines of these kinds alone. `start_us` is given where the calendar
    matters; None: any start will do. Lines begin with the journey's id when there is more than one journey.
    """

    words: str
    journeys: str
    moments: tuple[Moment, ...]
    then: tuple[str, ...]
    attributes: Mapping[str, Any] = {}
    time_zone: str = ""
    profile_id: str = "ann"
    start_us: int | None = None
    only: tuple[str, ...] = ()
    place: Place | None = None

    def timed(self) -> tuple[tuple[int, int, Moment], ...]:
        """What happens, each with when it happens and when that becomes known, in microseconds since the story began.

        The two differ for an event that arrives late. The time that passes at the end is an entry of its own, the last.
        """
        now_us = 0
        timed: list[tuple[int, int, Moment]] = []
        for moment in self.moments:
            if isinstance(moment, Passes):
                now_us += moment.duration_us
                timed.append((now_us, now_us, moment))
                continue
            given_us: int | None = getattr(moment, "at_us", None)
            happens_us = now_us if given_us is None else given_us
            now_us = max(now_us, happens_us)
            timed.append((happens_us, now_us, moment))
        return tuple(timed)

    def told(self, engine: "Engine | None" = None) -> list[str]:
        """The timeline that does come of it."""
        lines = (engine or MachineEngine()).play(self)
        # A line's kind stands behind its time, and that behind the journey if there are several.
        return [line for line in lines if not self.only or _kind(line) in self.only]

    def check(self, engine: "Engine | None" = None) -> None:
        """Plays the case. Raises Mismatch, an AssertionError, when another timeline comes of it."""
        told = self.told(engine)
        if told != list(self.then):
            raise Mismatch(self, told)


class Engine(Protocol):
    """Plays cases: the bare machine here, running services elsewhere."""

    def play(self, case: Case) -> list[str]:
        """The timeline that comes of a case, in the words of `story.line`. What it can't play is a reason to skip, or to fail."""
        ...


class MachineEngine:
    """Plays cases on the very machine that the services run, under a virtual clock."""

    def play(self, case: Case) -> list[str]:
        """The timeline that comes of a case."""
        return self.story(case).lines

    def story(self, case: Case) -> Story:
        """The story at the end of a case."""
        story = Story(
            case.journeys,
            attributes=case.attributes,
            time_zone=case.time_zone,
            profile_id=case.profile_id,
            start_us=START_US if case.start_us is None else case.start_us,
        )
        for moment in case.moments:
            story.happen(moment)
        return story


class Mismatch(AssertionError):  # noqa: N818 - what a case says, not a defect of its own
    """Another timeline came of a case than it says; its text shows both, line by line."""

    def __init__(self, case: Case, told: Sequence[str]) -> None:
        self.case = case
        self.told = tuple(told)
        super().__init__(explain(case, told))


def explain(case: Case, told: Sequence[str]) -> str:
    """The difference of two timelines, with `-` before what was expected and `+` before what happened, and with file and line."""
    lines: list[str] = []
    first: int | None = None
    matcher = difflib.SequenceMatcher(None, case.then, told, autojunk=False)
    for tag, from_then, to_then, from_told, to_told in matcher.get_opcodes():
        if tag == "equal":
            lines += [f"    {line}" for line in told[from_told:to_told]]
            continue
        first = from_then if first is None else first
        lines += [
            f"  - {line}{_at(case.place, from_then + n)}"
            for n, line in enumerate(case.then[from_then:to_then])
        ]
        lines += [f"  + {line}" for line in told[from_told:to_told]]
    head = f"{case.words}: another timeline than expected (- expected, + happened)"
    if case.place is not None:
        line = case.place.line
        if first is not None and case.place.then:
            line = case.place.then[min(first, len(case.place.then) - 1)]
        head = f"{case.place.file}:{line}: {head}"
    return "\n".join([head, *(lines or ["    nothing happened"])])


class Scenario(msgspec.Struct, frozen=True):
    """A case that is being told; each word gives a longer one, and `then` checks it. Begin with `given`."""

    journeys: str
    attributes: Mapping[str, Any] = {}
    time_zone: str = ""
    profile_id: str = "ann"
    start_us: int | None = None
    moments: tuple[Moment, ...] = ()
    lines: tuple[str, ...] = ()

    def when(self, *happens: Moment | str, **properties: Any) -> "Scenario":
        """These moments happen, in order; text is the name of an event that happens now, with these properties."""
        named = (Event(each, None, properties) if isinstance(each, str) else each for each in happens)
        return msgspec.structs.replace(self, moments=(*self.moments, *named))

    def after(self, duration: str) -> "Scenario":
        """Time passes, and what becomes due meanwhile acts, that of the last instant included."""
        return self.when(passes(duration))

    def then(self, *lines: str) -> "Scenario":
        """The timeline goes on with these lines since the last `then`, and has no others. Raises Mismatch."""
        longer = msgspec.structs.replace(self, lines=(*self.lines, *lines))
        longer.case().check()
        return longer

    def case(self, words: str = "the story") -> Case:
        """All of it as data, for any engine."""
        return Case(
            words,
            self.journeys,
            self.moments,
            self.lines,
            self.attributes,
            self.time_zone,
            self.profile_id,
            self.start_us,
        )


def given(
    *journeys: str | Path,
    attributes: Mapping[str, Any] | None = None,
    time_zone: str = "",
    profile_id: str = "ann",
    start_us: int | None = None,
) -> Scenario:
    """A profile and journeys, in YAML or in files of it, each live in version 1."""
    texts = (each.read_text(encoding="utf-8") if isinstance(each, Path) else each for each in journeys)
    return Scenario("\n---\n".join(texts), attributes or {}, time_zone, profile_id, start_us)


def tell(journeys: str, *moments: Moment, **given: Any) -> list[str]:
    """The timeline of a profile to which these moments happen; `given` is what Story takes, such as `attributes`."""
    return play(journeys, *moments, **given).lines


def play(journeys: str, *moments: Moment, **given: Any) -> Story:
    """The story after these moments."""
    story = Story(journeys, **given)
    for moment in moments:
        story.happen(moment)
    return story


_KINDS: Final = frozenset(kind.name for kind in Kind)


def _kind(line: str) -> str:
    return next((word for word in line.split()[1:3] if word in _KINDS), "")


def _at(place: Place | None, index: int) -> str:
    return f"    (line {place.then[index]})" if place is not None and index < len(place.then) else ""
