"""Settings and secrets as documented; numbers that only grow; every call has a role."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cairn.activation
from cairn.activation.api import ROLES
from cairn.activation.board import Board
from cairn.activation.secrets import MissingSecretError, Secrets
from cairn.activation.settings import ActivationSettings
from cairn.api.activation.v1 import activation_pb2
from cairn.runtime.settings_docs import render_settings_table

README = Path(cairn.activation.__file__).parents[3] / "README.md"


def test_the_readme_lists_the_settings() -> None:
    text = README.read_text()
    between = text.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    assert between.strip() == render_settings_table(ActivationSettings).strip()


def test_every_call_has_a_role() -> None:
    methods = activation_pb2.DESCRIPTOR.services_by_name["ActivationService"].methods
    assert {method.name for method in methods} == set(ROLES)


def test_a_secret_is_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = Secrets(tmp_path)
    with pytest.raises(MissingSecretError, match="CAIRN_SECRET_META_TOKEN"):
        secrets.read("meta-token")
    monkeypatch.setenv("CAIRN_SECRET_META_TOKEN", "from the environment")
    assert secrets.read("meta-token") == "from the environment"
    (tmp_path / "meta-token").write_text("from the file\n")
    assert secrets.read("meta-token") == "from the file"


def test_an_empty_file_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "signing").write_text(" \n")
    with pytest.raises(MissingSecretError, match="CAIRN_SECRET_SIGNING"):
        Secrets(tmp_path).read("signing")


@pytest.mark.parametrize("name", ["../meta", "/etc/passwd", "", "A", "a/b"])
def test_a_secrets_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingSecretError):
        Secrets(tmp_path).read(name)


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 10**6)), min_size=2))
def test_sequence_numbers_only_grow_whatever_the_clock_does(takes: list[tuple[int, int]]) -> None:
    board = Board(1)
    last = 0
    for count, now in takes:
        first = board.take_numbers(count, now)
        assert first > last
        last = first + count - 1


def test_the_floor_is_never_younger_than_the_oldest_open_row() -> None:
    board = Board(1)
    now, day = 10**15, 86_400_000_000
    assert not board.accepted(3, {"email": 1}, 5)
    board.own(3, None)
    assert board.floor_us(3, now) == now - 2 * day
    assert board.accepted(3, {"email": 1}, now - 5 * day)
    assert board.floor_us(3, now) == now - 5 * day
    board.own(3, now - day)
    assert board.floor_us(3, now) == now - 2 * day
