"""Owns the shapes that the machine takes and gives: state, inputs, effects. Times are microseconds since the epoch, UTC.

None of them can be part of a cycle (JSON has none), so the garbage collector need not look at them: `gc=False`. A service
holds tens of thousands.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import msgspec

from cairn.journey.behavior import Tracks, event_view
from cairn.journey.model import AudienceAction
from cairn.journey.times import isoformat, to_us

Json = dict[str, Any]
"""A JSON object: text, numbers, booleans, None, lists and objects."""


class EnrollmentState(enum.IntEnum):
    """Where an enrollment is; the numbers are those of the contract. WAITING, RESTING and HELD are open, all others have ended."""

    WAITING = 1
    RESTING = 2
    COMPLETED = 3
    GOAL_ACHIEVED = 4
    EXITED = 5
    HELD = 6
    JUMPED = 7
    RESTARTED = 8
    REMOVED = 9

    @property
    def is_open(self) -> bool:
        """Whether the enrollment goes on."""
        return self in OPEN_STATES


# By themselves as well: every input asks for them, and Python 3.11 takes ten times as long to find a member of an enum.
WAITING: Final = EnrollmentState.WAITING
RESTING: Final = EnrollmentState.RESTING
HELD: Final = EnrollmentState.HELD
OPEN_STATES: Final = frozenset({WAITING, RESTING, HELD})
"""The states of an enrollment that goes on."""


class Kind(enum.IntEnum):
    """Kinds of transition; the numbers are those of the contract."""

    ENTERED = 1
    STAGE_ENTERED = 2
    STAGE_SKIPPED = 3
    WAIT_STARTED = 4
    WAIT_ENDED = 5
    WAIT_CANCELED = 6
    ACTIVATION_REQUESTED = 7
    ACTIVATION_WITHDRAWN = 8
    RESTED = 9
    GOAL_ACHIEVED = 10
    EXITED = 11
    COMPLETED = 12
    ENTRY_REFUSED = 13
    BRANCH_TAKEN = 14
    JUMPED = 15
    RESTARTED = 16
    REMOVED = 17
    MIGRATED = 18


class PendingActivation(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An activation that has no receipt yet."""

    activation_id: str
    request_us: int
    step_id: str


class Enrollment(msgspec.Struct, array_like=True, gc=False):
    """One passage of a profile through one version of a journey.

    `position` is the instruction at which it stands; `wait_until_us` is set while a wait is open, `rest_us` from when it
    came to rest. `now_us` is its logical time. `wake_us` is the due time of the one timer that the Scheduler holds for it
    (0: none), whose id is made from `wake_number`; in a batch journey, for which the Scheduler holds none, it says when time will next do
    something, and the number stays 0. `entry` is the event that began it, `latest` the last one that reached
    it, None as long as that is `entry`: most never see another, and would be twice as large. `held` is the one that its steps
    will see when a paused journey resumes. `added` are the instructions that added the profile to an audience which may have to
    let go of it at the end; `pending` is, once it has ended, what was asked for then.
    """

    enrollment_id: str
    version: int
    state: EnrollmentState
    stage: int
    position: int
    enter_us: int
    stage_enter_us: int
    now_us: int
    wait_until_us: int = 0
    rest_us: int = 0
    end_us: int = 0
    wake_us: int = 0
    wake_number: int = 0
    exit: str = ""
    pending: tuple[PendingActivation, ...] = ()
    entry: Json | None = None
    latest: Json | None = None
    held: Json | None = None
    added: tuple[int, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.state in OPEN_STATES

    @property
    def latest_event(self) -> Json | None:
        """The last event that reached it."""
        return self.latest or self.entry

    @property
    def timer_id(self) -> str:
        """The id of the timer that the Scheduler holds for it; never used again once another is asked for."""
        return f"{self.enrollment_id}.t{self.wake_number}"


class RememberedEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What would have begun an enrollment while the journey was paused, and does when it resumes.

    `event` is None when a change of the profile would have; `stage`, `entry` and `latest` are those of a jump.
    """

    time_us: int
    cause: str
    id_cause: str
    event: Json | None = None
    stage: str | None = None
    entry: Json | None = None
    latest: Json | None = None


class LastRun(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last run that changed a standing with a batch journey: its logical time, how many activations it asked for there, and whether
    it began an enrollment."""

    time_us: int
    activations: int = 0
    entered: bool = False


class Standing(msgspec.Struct, array_like=True, gc=False):
    """How one profile stands with one journey, or with one key's value in a keyed one: its entry history, and its enrollment,
    open or the last that ended.

    `achieved` says that the goal ended an enrollment once; `goal_us` is the time of the last input that met the goal,
    enrolled or not (0: none). `pauses` counts the pauses of the journey that the enrollment has lived through. `last_run` makes the same
    run, or an older one, change nothing.
    """

    entries: int = 0
    last_entry_us: int = 0
    achieved: bool = False
    goal_us: int = 0
    enrollment: Enrollment | None = None
    pauses: int = 0
    remembered: RememberedEntry | None = None
    last_run: LastRun | None = None


class Profile(msgspec.Struct, frozen=True, gc=False):
    """What the machine may know of a profile: its id, its attributes, empty when it was never described, its time zone, empty
    when it has none, and its behavior."""

    profile_id: str
    attributes: Mapping[str, Any] = {}
    time_zone: str = ""
    behavior: Tracks = {}


class EventInput(msgspec.Struct, eq=False, gc=False):
    """An event, at its own time and never later than its arrival. `view` is what criteria read: name, properties, occur_time."""

    event_id: str
    time_us: int
    view: Mapping[str, Any]
    _stored: Json | None = None

    def stored(self) -> Json:
        """The event as an enrollment keeps it and a message shows it; made once."""
        if self._stored is None:
            view = self.view
            self._stored = {
                "event_id": self.event_id,
                "name": view["name"],
                "occur_time": isoformat(view["occur_time"]),
                "properties": view["properties"],
            }
        return self._stored


@final
class TimerInput(msgspec.Struct, frozen=True, gc=False):
    """A due timer; `time_us` is when it was due."""

    timer_id: str
    time_us: int


class ProfileInput(msgspec.Struct, frozen=True, gc=False):
    """A change of the profile, at its arrival."""

    time_us: int


@final
class RunInput(msgspec.Struct, frozen=True, gc=False):
    """A run of a batch journey comes by, at the run's logical time."""

    time_us: int
    run_id: str


@final
class ReceiptInput(msgspec.Struct, frozen=True, gc=False):
    """The fate of an activation is known."""

    activation_id: str


@final
class LifeInput(msgspec.Struct, frozen=True, gc=False):
    """An operator paused, resumed or ended the journey: act on what the journey says of itself, as of `time_us`."""

    time_us: int


class StartInput(msgspec.Struct, frozen=True, gc=False):
    """A jump or a goal's target arrives from another enrollment, at its logical time.

    `event` is the event of the input at hand, None where it is none; `entry` is what begins the enrollment: that event, else the
    one that began the other; `latest` is carried over. `steps` is how many have run for the input so far.
    """

    time_us: int
    stage: str
    from_journey: str
    from_enrollment: str
    event: Json | None
    entry: Json | None
    latest: Json | None
    steps: int


Input = EventInput | TimerInput | ProfileInput | RunInput | ReceiptInput | LifeInput | StartInput


class ScheduleTimer(msgspec.Struct, frozen=True, gc=False):
    """Wake the enrollment at `due_us`."""

    timer_id: str
    due_us: int


class CancelTimer(msgspec.Struct, frozen=True, gc=False):
    """Forget a timer."""

    timer_id: str


class RequestActivation(msgspec.Struct, frozen=True, gc=False):
    """Hand the profile to a destination; `attributes`, `entry` and `latest` are what the message needs, `time_zone` is that of the
    profile, else the journey's own, else empty."""

    activation_id: str
    request_us: int
    version: int
    enrollment_id: str
    stage: str
    step_id: str
    channel: str
    template: str
    action: AudienceAction
    attributes: Mapping[str, Any]
    entry: Json | None
    latest: Json | None
    time_zone: str = ""


class WithdrawActivation(msgspec.Struct, frozen=True, gc=False):
    """Take an activation back, if it has not left yet."""

    activation_id: str
    request_us: int
    reason: str


class StartJourney(msgspec.Struct, frozen=True, gc=False):
    """Another journey begins with this input, in the same transaction."""

    journey_id: str
    start: StartInput


Effect = ScheduleTimer | CancelTimer | RequestActivation | WithdrawActivation


class Transition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One recorded change of an enrollment. `enrollment_id` is empty for ENTRY_REFUSED, `step` where no step is concerned."""

    time_us: int
    journey_id: str
    version: int
    enrollment_id: str
    kind: Kind
    stage: str
    step: str
    detail: Json
    cause: str


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What an input did: the new standing (the very same object when nothing changed), effects and transitions in order,
    how many criteria failed on the input, and the journeys to begin with it."""

    standing: Standing
    effects: Sequence[Effect] = ()
    transitions: Sequence[Transition] = ()
    failures: int = 0
    starts: tuple[StartJourney, ...] = ()


def merge_attributes(attributes: Mapping[str, Any], changes: Mapping[str, Any]) -> Json:
    """A profile's attributes after a change of it: merged at the top level, None removes one."""
    merged = dict(attributes)
    for name, value in changes.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


def same_json(left: Json | Mapping[str, Any], right: Json | Mapping[str, Any]) -> bool:
    """Whether two JSON objects say the same: `1` and `true` do not, whatever Python thinks of them."""
    return left == right and msgspec.json.encode(left) == msgspec.json.encode(right)


def stored_input(stored: Json) -> EventInput:
    """A stored event as an input again."""
    view = event_view(stored)
    assert view is not None
    return EventInput(stored["event_id"], to_us(stored["occur_time"]), view)


def entry_view(stored: Json | None) -> Mapping[str, Any] | None:
    """A stored event as criteria read it."""
    return event_view(stored)
