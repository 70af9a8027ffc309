"""Owns the words of the test kit: everything that a test of a journey needs, from one place.

The machine is the real one, under a virtual clock and an alarm that rings when it was asked to. Refuses I/O and real time.

    given(cart).when("cart_add").after("3h").then(
        "0s ENTERED cart",
        "0s STAGE_ENTERED cart",
        "0s WAIT_STARTED cart/1 until 3h",
        "3h WAIT_ENDED cart/1",
        "3h ACTIVATION_REQUESTED cart/2 through email",
        "3h RESTED cart",
    )

A moment is written as a duration since the story began. A line is the time, the kind of transition, the step (or the stage
where no step is concerned) and what else is to be said, behind the journey's id when there is more than one.
"""

from cairn.testing.cases import (
    Case,
    Engine,
    MachineEngine,
    Mismatch,
    Place,
    Scenario,
    explain,
    given,
    play,
    tell,
)
from cairn.testing.moments import (
    Alarm,
    Change,
    End,
    Event,
    Moment,
    Passes,
    Pause,
    Publish,
    Receipt,
    Resume,
    Run,
    alarm,
    duration_us,
    end,
    event,
    passes,
    pause,
    profile,
    publish,
    receipt,
    resume,
    run,
)
from cairn.testing.story import START_US, Story, line, read_journey, read_journeys, times
from cairn.testing.tables import TableError, read_table

__all__ = [
    "START_US",
    "Alarm",
    "Case",
    "Change",
    "End",
    "Engine",
    "Event",
    "MachineEngine",
    "Mismatch",
    "Moment",
    "Passes",
    "Pause",
    "Place",
    "Publish",
    "Receipt",
    "Resume",
    "Run",
    "Scenario",
    "Story",
    "TableError",
    "alarm",
    "duration_us",
    "end",
    "event",
    "explain",
    "given",
    "line",
    "passes",
    "pause",
    "play",
    "profile",
    "publish",
    "read_journey",
    "read_journeys",
    "read_table",
    "receipt",
    "resume",
    "run",
    "tell",
    "times",
]
