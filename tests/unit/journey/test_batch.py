"""Batch journeys: what a run does to one profile, and that nothing else moves it. Each case is told from its first to its last line.

Not as cases that services play: there a run happens now. What services do with runs is tested where they are.
"""

import pytest

from cairn.journey.dispatch import dispatch_run
from cairn.journey.live import LiveJourneys
from cairn.journey.machine import UnknownVersionError
from cairn.journey.state import (
    CancelTimer,
    EnrollmentState,
    LastRun,
    RunInput,
    ScheduleTimer,
    TimerInput,
    WithdrawActivation,
)
from cairn.testing.journeys import (
    START_US,
    Moment,
    Story,
    alarm,
    end,
    event,
    line,
    passes,
    pause,
    play,
    profile,
    publish,
    receipt,
    resume,
    run,
    tell,
)

HOUR_US = 3_600_000_000

JOURNEY = """
name: winback
type: BATCH
audience: profile.customer == true
goal: {criteria: profile.bought == true}
exit_criteria:
  - {name: gone, criteria: profile.gone == true}
stages:
  - name: one
    entry: profile.lapsed == true
    milestone: profile.level >= 2
    exit_criteria: [{name: cold, stale: 10d}]
    steps:
      - activation: {channel: ads, action: ADD}
      - wait: {duration: 1d}
      - activation: {channel: email}
      - wait: {condition: profile.opened == true, timeout: 1w, met: [{activation: {channel: sms}}]}
  - name: two
    milestone: profile.level >= 3
    steps: [{activation: {channel: two}}, {wait: {duration: 2h}}]
  - name: three
    steps: [{activation: {channel: three}}]
"""
IN = profile(customer=True, lapsed=True)
BEGUN = (
    "0s ENTERED one",
    "0s STAGE_ENTERED one",
    "0s ACTIVATION_REQUESTED one/1 through ads",
    "0s WAIT_STARTED one/2 until 1d",
)
ASKED = (
    "1d WAIT_ENDED one/2",
    "1d ACTIVATION_REQUESTED one/3 through email",
    "1d WAIT_STARTED one/4 until 8d",
)

SHORT = """
name: winback
type: BATCH
audience: profile.customer == true
REENTRY
stages:
  - name: one
    entry: profile.lapsed == true
    steps: [STEPS]
"""


def short(steps: str = "{activation: {channel: log}}", reentry: str = "") -> str:
    return SHORT.replace("STEPS", steps).replace("REENTRY", f"reentry: {reentry}" if reentry else "")


WAITS = short("{wait: {duration: 1d}}, {activation: {channel: log}}")
ALWAYS = short(reentry="{mode: ALWAYS}")
# Somebody comes by an event, and goes on into the batch journey, or the other way round.
INTO = f"""
name: begun-by-event
type: REAL_TIME
stages: [{{name: a, entry: event.name == "go", steps: [{{jump: {{journey: winback}}}}]}}]
---
{WAITS}
"""
OUT = f"""
{short("{wait: {duration: 1d}}, {jump: {journey: thanks, stage: b}}")}
---
name: thanks
type: REAL_TIME
stages: [{{name: a, entry: event.name == "never", milestone: event.name == "never"}}, {{name: b, steps: [{{wait: {{duration: 1h}}}}]}}]
"""

CASES: tuple[tuple[str, str, tuple[Moment, ...], tuple[str, ...]], ...] = (
    # Who enters
    ("who is in the audience and meets the entry criteria enters", JOURNEY, (IN, run()), BEGUN),
    ("who is not in the audience does not", JOURNEY, (profile(lapsed=True), run()), ()),
    ("nor who meets the entry criteria not", JOURNEY, (profile(customer=True), run()), ()),
    ("nor who meets the goal", JOURNEY, (IN, profile(bought=True), run()), ()),
    ("but when it is met no more", JOURNEY, (IN, profile(bought=True), run(), profile(bought=False), run()), BEGUN),
    ("who has not come by yet is nobody", JOURNEY, (run(), IN), ()),
    ("rules 2 to 4 are tested with the run that begins it", JOURNEY, (IN, profile(level=3), run()), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s STAGE_SKIPPED two", "0s STAGE_ENTERED three over milestone one",
        "0s ACTIVATION_REQUESTED three/1 through three", "0s RESTED three")),
    ("an exit that holds ends it at once", JOURNEY, (IN, profile(gone=True), run()), ("0s ENTERED one", "0s STAGE_ENTERED one", "0s EXITED one by gone")),
    # Nothing but runs
    ("time, events and changes of the profile do nothing", JOURNEY,
        (IN, run(), event("bought"), passes("30d"), profile(level=3, bought=True, gone=True), event("bought"), passes("30d")), BEGUN),
    ("nor do they begin it", JOURNEY, (IN, event("lapsed"), passes("30d"), profile(level=1)), ()),
    # What was due
    ("what was due before a run happens at its own time", JOURNEY, (IN, run(), run("1d12h")), (*BEGUN, *ASKED)),
    ("in order, however much it was", JOURNEY, (IN, run(), run("9d")), (
        *BEGUN, *ASKED, "8d WAIT_ENDED one/4 timed out", "8d RESTED one")),
    ("what is due in the instant of a run comes after its rules", JOURNEY, (IN, run(), profile(level=2), run("1d")), (
        *BEGUN, "1d WAIT_CANCELED one/2", "1d ACTIVATION_WITHDRAWN one/1", "1d STAGE_ENTERED two",
        "1d ACTIVATION_REQUESTED two/1 through two", "1d WAIT_STARTED two/2 until 1d2h")),
    ("the rules go before what was due, as the profile is by now", JOURNEY, (IN, run(), profile(level=2, at="9d"), run("11d")), (
        *BEGUN, "1d WAIT_CANCELED one/2", "1d ACTIVATION_WITHDRAWN one/1", "1d STAGE_ENTERED two over step one/2",
        "1d ACTIVATION_REQUESTED two/1 through two", "1d WAIT_STARTED two/2 until 1d2h",
        "1d2h WAIT_ENDED two/2", "1d2h RESTED two")),
    ("who did nothing is let go for staleness at its time", JOURNEY, (IN, run(), run("2d"), run("11d")), (
        *BEGUN, *ASKED, "8d WAIT_ENDED one/4 timed out", "8d RESTED one",
        "10d ACTIVATION_WITHDRAWN one/1", "10d ACTIVATION_WITHDRAWN one/3", "10d EXITED one by cold")),
    ("rest is over after 24 days", short(reentry="{mode: NEVER}"), (IN, run(), run("1d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s ACTIVATION_REQUESTED one/1 through log", "0s RESTED one", "0s COMPLETED one")),
    ("where something is left to wait for", JOURNEY, (IN, profile(level=3), run(), run("23d"), run("25d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s STAGE_SKIPPED two", "0s STAGE_ENTERED three over milestone one",
        "0s ACTIVATION_REQUESTED three/1 through three", "0s RESTED three", "24d COMPLETED three")),
    # The rules with a run
    ("the audience only lets in", JOURNEY, (IN, run(), profile(customer=False), run("2d")), (*BEGUN, *ASKED)),
    ("a condition is met with a run", JOURNEY, (IN, run(), run("2d"), profile(opened=True), run("3d")), (
        *BEGUN, *ASKED, "3d WAIT_ENDED one/4 met", "3d ACTIVATION_REQUESTED one/4/met/1 through sms", "3d RESTED one")),
    ("or with what was due, when that comes to it", JOURNEY, (IN, run(), profile(opened=True), run("3d")), (
        *BEGUN, *ASKED, "1d WAIT_ENDED one/4 met", "1d ACTIVATION_REQUESTED one/4/met/1 through sms", "1d RESTED one")),
    ("the goal goes first", JOURNEY, (IN, run(), profile(bought=True, gone=True, level=3), run("2h")), (
        *BEGUN, "2h WAIT_CANCELED one/2", "2h ACTIVATION_WITHDRAWN one/1",
        "2h GOAL_ACHIEVED one over exit gone, milestone two, milestone one")),
    ("an exit, then a milestone", JOURNEY, (IN, run(), profile(gone=True, level=2), run("2h")), (
        *BEGUN, "2h WAIT_CANCELED one/2", "2h ACTIVATION_WITHDRAWN one/1", "2h EXITED one by gone over milestone one")),
    ("one stage with each run", JOURNEY, (IN, run(), profile(level=2), run("1h"), profile(level=3), run("2h")), (
        *BEGUN, "1h WAIT_CANCELED one/2", "1h ACTIVATION_WITHDRAWN one/1", "1h STAGE_ENTERED two",
        "1h ACTIVATION_REQUESTED two/1 through two", "1h WAIT_STARTED two/2 until 3h",
        "2h WAIT_CANCELED two/2", "2h ACTIVATION_WITHDRAWN two/1", "2h STAGE_ENTERED three",
        "2h ACTIVATION_REQUESTED three/1 through three", "2h RESTED three")),
    ("a message that has left is not taken back", JOURNEY, (IN, run(), receipt("one/1"), profile(bought=True), run("2h")), (
        *BEGUN, "2h WAIT_CANCELED one/2", "2h GOAL_ACHIEVED one")),
    # Again
    ("nobody begins twice unless the journey says so, and nobody is told", short(), (IN, run(), run("1d"), run("40d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s ACTIVATION_REQUESTED one/1 through log", "0s RESTED one", "0s COMPLETED one")),
    ("with ALWAYS each run begins it", ALWAYS, (IN, run(), run("1d"), profile(lapsed=False), run("2d")), tuple(
        f"{at} {what}" for at in ("0s", "1d")
        for what in ("ENTERED one", "STAGE_ENTERED one", "ACTIVATION_REQUESTED one/1 through log", "RESTED one", "COMPLETED one"))),
    ("a cooldown counts from the entry", short(reentry="{mode: ALWAYS, cooldown: 3d}"), (IN, run(), run("2d"), run("3d")), tuple(
        f"{at} {what}" for at in ("0s", "3d")
        for what in ("ENTERED one", "STAGE_ENTERED one", "ACTIVATION_REQUESTED one/1 through log", "RESTED one", "COMPLETED one"))),
    ("a maximum is one", short(reentry="{mode: ALWAYS, max_entries: 1}"), (IN, run(), run("2d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s ACTIVATION_REQUESTED one/1 through log", "0s RESTED one", "0s COMPLETED one")),
    ("who is on the way is left alone", WAITS, (IN, run(), run("1h")), ("0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d")),
    ("or begins anew where the journey says so", short("{wait: {duration: 1d}}", "{while_active: RESTART}"), (IN, run(), run("1h")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d", "1h WAIT_CANCELED one/1", "1h RESTARTED one",
        "1h ENTERED one", "1h STAGE_ENTERED one", "1h WAIT_STARTED one/1 until 1d1h")),
    ("at rest in the last stage somebody may begin again", short("{wait: {duration: 1d}}", "{mode: ALWAYS}") + "    exit_criteria: [{name: x, criteria: profile.x == true}]",
        (IN, run(), run("1d12h")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d", "1d WAIT_ENDED one/1", "1d RESTED one",
        "1d12h COMPLETED one", "1d12h ENTERED one", "1d12h STAGE_ENTERED one", "1d12h WAIT_STARTED one/1 until 2d12h")),
    # Jumps
    ("a jump leads in, whatever the audience, and its steps run at once", INTO, (event("go"), passes("2d"), run("3d", "winback")), (
        "begun-by-event 0s ENTERED a", "begun-by-event 0s STAGE_ENTERED a", "begun-by-event 0s JUMPED a/1 to winback",
        "winback 0s ENTERED one", "winback 0s STAGE_ENTERED one", "winback 0s WAIT_STARTED one/1 until 1d",
        "winback 1d WAIT_ENDED one/1", "winback 1d ACTIVATION_REQUESTED one/2 through log", "winback 1d RESTED one", "winback 1d COMPLETED one")),
    ("a jump finds who is on the way where the last run left them", INTO, (IN, run("0s", "winback"), event("go", at="2d"), run("3d", "winback")), (
        "winback 0s ENTERED one", "winback 0s STAGE_ENTERED one", "winback 0s WAIT_STARTED one/1 until 1d",
        "begun-by-event 2d ENTERED a", "begun-by-event 2d STAGE_ENTERED a", "begun-by-event 2d JUMPED a/1 to winback",
        "winback 1d WAIT_ENDED one/1", "winback 1d ACTIVATION_REQUESTED one/2 through log", "winback 1d RESTED one", "winback 1d COMPLETED one")),
    ("a jump leads out, and is a timer's from then on", OUT, (IN, run(), run("2d"), passes("1h")), (
        "winback 0s ENTERED one", "winback 0s STAGE_ENTERED one", "winback 0s WAIT_STARTED one/1 until 1d",
        "winback 1d WAIT_ENDED one/1", "winback 1d JUMPED one/2 to thanks/b",
        "thanks 1d ENTERED b", "thanks 1d STAGE_ENTERED b", "thanks 1d WAIT_STARTED b/1 until 1d1h",
        "thanks 1d1h WAIT_ENDED b/1", "thanks 1d1h RESTED b", "thanks 1d1h COMPLETED b")),
    # Audiences
    ("who was added is let go with the run that ends it", short("{activation: {channel: ads, action: ADD, until: EXIT}}, {wait: {duration: 2w}}"),
        (IN, run(), receipt("one/1"), run("15d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s ACTIVATION_REQUESTED one/1 through ads", "0s WAIT_STARTED one/2 until 14d",
        "14d WAIT_ENDED one/2", "14d RESTED one", "14d ACTIVATION_REQUESTED one/1 REMOVE through ads", "14d COMPLETED one")),
    # Pauses and ends
    ("who would enter meanwhile begins with the resume", WAITS, (IN, pause(), run("1h"), run("2h"), passes("1h"), resume(), run("2d")), (
        "3h ENTERED one", "3h STAGE_ENTERED one", "3h WAIT_STARTED one/1 until 1d3h",
        "1d3h WAIT_ENDED one/1", "1d3h ACTIVATION_REQUESTED one/2 through log", "1d3h RESTED one", "1d3h COMPLETED one")),
    ("a wait is longer by a pause, and its end is left to a run", WAITS, (IN, run(), pause(), passes("2d"), resume(), passes("5d"), run("8d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d",
        "3d WAIT_ENDED one/1", "3d ACTIVATION_REQUESTED one/2 through log", "3d RESTED one", "3d COMPLETED one")),
    ("while clocks run it is not", WAITS, (IN, run(), pause("RUN"), passes("12h"), resume(), passes("5d"), run()), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d",
        "1d WAIT_ENDED one/1", "1d ACTIVATION_REQUESTED one/2 through log", "1d RESTED one", "1d COMPLETED one")),
    ("a run while clocks run holds what is due", WAITS, (IN, run(), pause("RUN"), run("2d"), passes("1d"), resume()), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d", "1d WAIT_ENDED one/1",
        "3d ACTIVATION_REQUESTED one/2 through log", "3d RESTED one", "3d COMPLETED one")),
    ("what was due before a pause waits for the run after it", WAITS, (IN, run(), passes("2d"), pause(), run("3d"), passes("1d"), resume(), run("5d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d",
        "1d WAIT_ENDED one/1", "1d ACTIVATION_REQUESTED one/2 through log", "1d RESTED one", "1d COMPLETED one")),
    ("a run in a pause lets goals, exits and milestones act, and holds their steps", JOURNEY,
        (IN, run(), pause(), profile(level=2), run("1h"), passes("1h"), resume()), (
        *BEGUN, "1h WAIT_CANCELED one/2", "1h ACTIVATION_WITHDRAWN one/1", "1h STAGE_ENTERED two",
        "2h ACTIVATION_REQUESTED two/1 through two", "2h WAIT_STARTED two/2 until 4h")),
    ("a pause that drops removes, and does nothing that no run came for", WAITS, (IN, run(), passes("2d"), pause("DROP"), resume(), run("3d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d", "2d WAIT_CANCELED one/1", "2d REMOVED one")),
    ("so does an end that removes", WAITS, (IN, run(), passes("2d"), end(remove=True), run("3d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d", "2d WAIT_CANCELED one/1", "2d REMOVED one")),
    ("an end that does not lets runs bring all to theirs, and nobody in", WAITS, (IN, run(), end(), run("2d"), run("40d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d",
        "1d WAIT_ENDED one/1", "1d ACTIVATION_REQUESTED one/2 through log", "1d RESTED one", "1d COMPLETED one")),
    ("nobody enters what has ended", WAITS, (IN, end(), run("1h")), ()),
    # Versions
    ("the newest version takes who enters, others stay on theirs", WAITS, (IN, run(), publish(short("{activation: {channel: newer}}", "{mode: ALWAYS}")), run("2d"), run("3d")), (
        "0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d",
        "1d WAIT_ENDED one/1", "1d ACTIVATION_REQUESTED one/2 through log", "1d RESTED one", "1d COMPLETED one",
        "2d ENTERED one", "2d STAGE_ENTERED one", "2d ACTIVATION_REQUESTED one/1 through newer", "2d RESTED one", "2d COMPLETED one",
        "3d ENTERED one", "3d STAGE_ENTERED one", "3d ACTIVATION_REQUESTED one/1 through newer", "3d RESTED one", "3d COMPLETED one")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("journeys", "moments", "lines"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_run(journeys: str, moments: tuple[Moment, ...], lines: tuple[str, ...]) -> None:
    story = play(journeys, *moments)
    assert story.lines == list(lines)
    # Nothing but a jump into another journey asks for a timer.
    asked = [each for each in story.effects if isinstance(each, ScheduleTimer | CancelTimer)]
    assert bool(asked) is any(line.startswith("thanks") for line in lines)


# Idempotence


def again(story: Story, time_us: int, run_id: str = "again") -> bool:
    """Whether a run changes anything; nothing is kept of it."""
    before = story.standing
    done = dispatch_run(
        story.live, story.profile, story.standings, "winback", RunInput(START_US + time_us, run_id)
    )
    assert done.transitions or not done.effects
    assert story.standing is before
    return bool(done.standings or done.transitions)


def test_a_run_that_changes_nothing_leaves_the_very_same_standing() -> None:
    story = play(JOURNEY, IN, run(), run("2h"), run("3h"))
    assert story.lines == list(BEGUN)
    assert not again(story, 4 * HOUR_US)
    assert story.standing.last_run == LastRun(START_US, activations=1, entered=True)
    assert again(story, 24 * HOUR_US)


def test_a_run_that_comes_again_changes_nothing_nor_does_an_older_one() -> None:
    story = play(JOURNEY, IN, run("2h"), profile(level=3, gone=True, bought=True))
    for time_us in (2 * HOUR_US, 2 * HOUR_US - 1, 0):
        assert not again(story, time_us)
    assert again(story, 2 * HOUR_US + 1)


def test_what_a_run_did_is_kept_beside_its_time() -> None:
    story = play(JOURNEY, IN, run(), run("1d"))
    assert story.standing.last_run == LastRun(START_US + 24 * HOUR_US, activations=1, entered=False)
    story.happen(profile(level=2))
    story.happen(run("2d"))
    assert story.standing.last_run == LastRun(START_US + 48 * HOUR_US, activations=1, entered=False)


def test_the_cause_and_the_ids_are_the_runs() -> None:
    first, second = (play(JOURNEY, IN, run()) for _ in range(2))
    assert {each.cause for each in first.transitions} == {"run r1"}
    assert first.effects == second.effects
    other = Story(JOURNEY)
    other.happen(IN)
    done = dispatch_run(other.live, other.profile, {}, "winback", RunInput(START_US, "another"))
    assert done.transitions[0].enrollment_id != first.transitions[0].enrollment_id


# What else is kept


def test_a_goal_that_holds_is_not_kept() -> None:
    story = play(JOURNEY, IN, run(), profile(bought=True), run("1h"))
    assert story.state is EnrollmentState.GOAL_ACHIEVED
    assert (story.standing.achieved, story.standing.goal_us) == (True, 0)
    assert not again(story, 2 * HOUR_US)
    outside = play(JOURNEY, IN, profile(bought=True), run())
    assert outside.standings == {}


def test_the_enrollment_says_when_time_will_next_do_something() -> None:
    story = play(JOURNEY, IN, run())
    enrollment = story.standing.enrollment
    assert enrollment is not None
    assert (enrollment.wake_us, enrollment.wake_number) == (START_US + 24 * HOUR_US, 0)
    story.happen(run("2d"))
    assert story.standing.enrollment is not None
    assert story.standing.enrollment.wake_us == START_US + 8 * 24 * HOUR_US


def test_a_timer_of_its_id_moves_nothing() -> None:
    story = play(JOURNEY, IN, run())
    assert story.standing.enrollment is not None
    before = story.standing
    story.take(TimerInput(story.standing.enrollment.timer_id, START_US + 24 * HOUR_US))
    assert story.standing is before
    assert story.lines == list(BEGUN)


def test_who_jumped_in_after_the_time_of_a_run_is_judged_at_their_own() -> None:
    text = INTO.replace("audience:", "goal: {criteria: profile.bought == true}\naudience:")
    for bought, lines in ((False, []), (True, ["2h WAIT_CANCELED one/1", "2h GOAL_ACHIEVED one"])):
        story = play(text, IN, event("go", at="2h"), profile(bought=bought))
        done = dispatch_run(
            story.live, story.profile, story.standings, "winback", RunInput(START_US + HOUR_US, "late")
        )
        assert [line(each) for each in done.transitions] == lines
        assert bool(done.standings) is bought


# What operators do, when it is done


def test_a_resume_leaves_to_the_next_run_what_was_due_before_the_pause() -> None:
    story = play(WAITS, IN, run(), passes("2d"), pause(), passes("1d"))
    before, count = story.standing, len(story.lines)
    story.happen(resume())
    assert story.standing is before
    story.happen(run("4d"))
    assert story.lines[count:][:2] == ["1d WAIT_ENDED one/1", "1d ACTIVATION_REQUESTED one/2 through log"]


def test_a_resume_that_comes_late_leaves_to_the_next_run_what_is_due_by_then() -> None:
    story = play(
        WAITS, IN, pause(), run(), alarm(on=False), passes("1h"), resume(), passes("5d"), alarm(on=True)
    )
    begun = ["1h ENTERED one", "1h STAGE_ENTERED one", "1h WAIT_STARTED one/1 until 1d1h"]
    assert story.lines == begun
    story.happen(run())
    assert story.lines[3] == "1d1h WAIT_ENDED one/1"


def test_an_event_that_comes_before_the_word_of_a_resume_does_not_bring_it() -> None:
    text = f'{WAITS}\n---\nname: other\ntype: REAL_TIME\nstages: [{{name: a, entry: event.name == "go"}}]\n'
    story = play(text, IN, pause(journey="winback"), run("0s", "winback"), alarm(on=False), passes("1h"))
    for moment in (resume("winback"), event("go")):
        story.happen(moment)
    assert {each.journey_id for each in story.transitions} == {"other"}
    story.happen(alarm(on=True))
    assert story.lines[-1] == "winback 1h WAIT_STARTED one/1 until 1d1h"


def test_a_pause_that_dropped_and_is_over_is_seen_by_the_run() -> None:
    lines = tell(
        WAITS, IN, run(), passes("2d"), alarm(on=False), pause("DROP"), passes("1h"), resume(), run("3d")
    )
    assert lines[3:] == ["2d WAIT_CANCELED one/1", "2d REMOVED one"]


def test_a_change_of_the_profile_moves_real_time_journeys_beside_it() -> None:
    both = f"{JOURNEY}\n---\nname: other\ntype: REAL_TIME\nstages: [{{name: a, entry: profile.level >= 2}}]\n"
    lines = tell(both, IN, run("0s", "winback"), profile(level=2))
    assert lines == [*(f"winback {each}" for each in BEGUN), "other 0s ENTERED a", "other 0s STAGE_ENTERED a", "other 0s RESTED a", "other 0s COMPLETED a"]  # fmt: skip


def test_what_is_due_elsewhere_comes_before_the_jump_of_a_run() -> None:
    """Two journeys jump to a third at different times: whichever hears of it, the earlier one begins it."""
    third = "name: thanks\ntype: REAL_TIME\nstages: [{name: a, entry: event.name == 'x', milestone: event.name == 'x'}, {name: b, steps: [{wait: {duration: 9d}}]}]"
    timed = "name: timed\ntype: REAL_TIME\nstages: [{name: a, entry: event.name == 'go', steps: [{wait: {duration: 1h}}, {jump: {journey: thanks, stage: b}}]}]"
    text = "\n---\n".join((short("{jump: {journey: thanks, stage: b}}"), third, timed))
    story = Story(text)
    story.alarm_is_on = False
    for moment in (IN, event("go"), run("2h", "winback")):
        story.happen(moment)
    entered = [
        each for each in story.transitions if each.journey_id == "thanks" and each.kind.name == "ENTERED"
    ]
    assert [(each.cause, each.time_us - START_US) for each in entered] == [("jump timed", HOUR_US)]


def test_a_criteria_that_fails_is_false_and_counted() -> None:
    story = play(JOURNEY.replace("profile.lapsed == true", "profile.lapsed.since > 3"), IN, run())
    assert (story.lines, story.failures) == (
        [],
        2,
    )  # the goal fails as well: nobody has said whether they bought


def test_a_message_is_withdrawn_by_the_run_that_moves_on() -> None:
    story = play(JOURNEY, IN, run(), profile(bought=True), run("1h"))
    (activation,) = story.requested
    assert story.withdrawn == [WithdrawActivation(activation.activation_id, START_US, "goal")]


# Which inputs concern it


def test_a_batch_journey_is_in_no_index_and_its_behavior_is_kept() -> None:
    text = JOURNEY.replace("profile.bought == true", '\'count("order", duration("2h")) > 0\'')
    live = Story(text).live
    assert live.concerned_by_event("order") == ()
    assert (live.by_profile, live.ids_by_profile) == ((), frozenset())
    assert live.batch_ids == {"winback"}
    assert live.has_need("order")
    assert not live.has_need("other")
    assert tell(text, IN, run(), event("order", at="1h"), run("2h"))[-1] == "2h GOAL_ACHIEVED one"
    # Later it does not hold any more; but where something was due meanwhile, it did.
    assert tell(text, IN, run(), event("order", at="1h"), run("12h")) == list(BEGUN)
    assert (
        tell(text, IN, run(), event("order", at="23h"), run("40h"))[-1]
        == "1d GOAL_ACHIEVED one over step one/2"
    )


def test_a_journey_that_is_not_served_here_can_not_run() -> None:
    story = Story(JOURNEY)
    with pytest.raises(UnknownVersionError, match="winback"):
        dispatch_run(LiveJourneys(), story.profile, {}, "winback", RunInput(START_US, "r"))
