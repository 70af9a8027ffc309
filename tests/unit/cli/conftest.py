"""Fixtures for the command line's tests."""

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cairn.cli.main import cli


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `cairn` with these arguments, as a program that is no terminal would."""
    for variable in ("CAIRN_DSN", "CAIRN_DEBUG"):
        monkeypatch.delenv(variable, raising=False)

    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, list(arguments), **options)

    return invoke
