"""The last look before a delivery leaves."""

from typing import Any

import pytest

from cairn.activation import store_guard
from cairn.activation.board import Board
from cairn.activation.channels import KINDS
from cairn.activation.guard import Guard, Item, guard
from cairn.activation.ledger import Fate
from cairn.activation.model import Claim
from cairn.activation.pauses import Pauses
from cairn.activation.policy import Policies
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1 import journey_pb2
from cairn.runtime.clock import to_timestamp

BUDGET = 3


def claim(attempts: int = 1) -> Claim:
    return Claim("a", 0, "p", "hello", 0, b"{}", 0, attempts, "e")


def test_what_may_leave() -> None:
    assert (
        guard(claim(BUDGET), attempts=BUDGET, has_connection=True, has_template=True, attempts_budget=BUDGET)
        is None
    )


@pytest.mark.parametrize(
    ("attempts", "has_connection", "has_template", "detail"),
    [
        (1, False, True, "its connection was deleted"),
        (1, True, False, "its template templates/hello was deleted"),
        (4, True, True, "given up: 3 attempts were begun and none ended"),
    ],
)
def test_what_may_not(attempts: int, has_connection: bool, has_template: bool, detail: str) -> None:
    outcome = guard(
        claim(attempts),
        attempts=attempts,
        has_connection=has_connection,
        has_template=has_template,
        attempts_budget=BUDGET,
    )
    assert outcome is not None
    assert (outcome.fate, outcome.detail) == (Fate.FAILED, detail)


NOBODY: Any = None
"""A pool that nothing is asked of."""

ADD, REMOVE = journey_pb2.AUDIENCE_ACTION_ADD, journey_pb2.AUDIENCE_ACTION_REMOVE


def change(action: int, place: int, journey: str = "paused", profile: str = "ada") -> Item:
    id_, version = f"{action}-{place}", f"journeys/{journey}/versions/1"
    claim = Claim(id_, 0, profile, "", action, b"{}", 0, 1, "e", journey_version=version, sequence=place)
    return Item(claim, "")


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Looks at a batch of an audience, with what the ledger has beside it; tells which may leave, and what the ledger was asked."""
    asked: list[tuple[list[str], list[str]]] = []

    async def find(_policies: Policies, _database: object) -> pb.SendingPolicy:
        return pb.SendingPolicy()

    pauses = Pauses(NOBODY, Board(1), None)
    pause = journey_pb2.Pause(pause_time=to_timestamp(1))
    life = journey_pb2.JourneyLife(
        journey="journeys/paused", state=journey_pb2.JOURNEY_STATE_PAUSED, pauses=[pause]
    )
    pauses.take([life], 1, caught_up=True)
    monkeypatch.setattr(Policies, "find", find)
    looking = Guard(NOBODY, Policies(), pauses, lambda address: b"")

    async def look_at(ledger: dict[str, int], *items: Item) -> tuple[list[bool], list[Any]]:
        async def first_open(_database: object, _bucket: int, profiles: Any, *_: Any, **more: Any) -> Any:
            asked.append((list(profiles), list(more["besides"])))
            return ledger

        monkeypatch.setattr(store_guard, "first_open", first_open)
        connection = pb.Connection(name="connections/meta")
        outcomes = await looking.look(1, connection, KINDS["meta_audience"], items, floor_us=0)
        assert all(outcome is None or outcome.fate is Fate.HELD for outcome in outcomes)
        return [outcome is None for outcome in outcomes], asked

    return look_at


@pytest.mark.parametrize(
    ("ledger", "items", "leave"),
    [
        ({}, [change(REMOVE, 5)], [True]),
        ({"ada": 4}, [change(REMOVE, 5)], [False]),
        ({"ada": 6}, [change(REMOVE, 5)], [True]),
        ({"ada": 4}, [change(REMOVE, 5), change(REMOVE, 6, profile="bob")], [False, True]),
        ({}, [change(ADD, 4), change(REMOVE, 5)], [False, False]),
        # It is due earlier, and was asked for later.
        ({}, [change(REMOVE, 5), change(ADD, 4)], [False, False]),
        ({}, [change(REMOVE, 5), change(ADD, 4, "live")], [False, True]),
        ({}, [change(ADD, 4, "live"), change(REMOVE, 5)], [True, True]),
        ({}, [change(REMOVE, 4), change(ADD, 5), change(REMOVE, 6)], [True, False, False]),
    ],
)
async def test_a_removal_passes_a_pause_where_nothing_before_it_waits(
    look: Any, ledger: dict[str, int], items: list[Item], leave: list[bool]
) -> None:
    found, asked = await look(ledger, *items)
    assert found == leave
    profiles = sorted({item.claim.profile_id for item in items if item.claim.action == REMOVE})
    assert asked == [(profiles, [item.claim.activation_id for item in items])], "once for the batch"


async def test_the_ledger_is_asked_only_of_whom_a_paused_journey_removes(look: Any) -> None:
    found, asked = await look({}, change(REMOVE, 5, "live"), change(ADD, 4), change(ADD, 6, "live"))
    assert found == [True, False, True]
    assert asked == []
