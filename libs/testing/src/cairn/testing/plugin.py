"""Owns what pytest does with tables of cases: files that end with .journey-test.yaml are collected, each case is a test.

Imports pytest only when pytest asks. The ini option `journey_engine` names another engine, as `package.module:Class`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

SUFFIXES = (".journey-test.yaml", ".journey-test.yml")
_ENGINE = "cairn.testing.cases:MachineEngine"


def pytest_addoption(parser: "pytest.Parser") -> None:
    """The ini option that names the engine."""
    parser.addini("journey_engine", "what plays tables of cases, as package.module:Class", default=_ENGINE)


def pytest_collect_file(file_path: Path, parent: "pytest.Collector") -> Any:
    """A table is a file of tests."""
    if not file_path.name.endswith(SUFFIXES):
        return None
    from cairn.testing._pytest_items import Table

    return Table.from_parent(parent, path=file_path)
