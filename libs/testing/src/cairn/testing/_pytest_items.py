"""Owns how a table and its cases are files and tests of pytest, and how a failure reads."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cairn.testing.cases import Case, Engine, Mismatch
from cairn.testing.tables import TableError, read_table


class Table(pytest.File):
    """A file of cases."""

    def collect(self) -> Iterator["CaseItem"]:
        """A test for each case, by its words."""
        for case in read_table(self.path):
            yield CaseItem.from_parent(self, name=case.words, case=case)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A table that can't be read is told without a traceback."""
        if isinstance(excinfo.value, TableError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class CaseItem(pytest.Item):
    """One case as a test."""

    def __init__(self, *, case: Case, **given: Any) -> None:
        super().__init__(**given)
        self.case = case

    def runtest(self) -> None:
        """Plays the case on the engine that is asked for."""
        module, _, name = str(self.config.getini("journey_engine")).partition(":")
        engine = getattr(importlib.import_module(module), name)()
        self.case.check(cast(Engine, engine))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Two timelines that differ are shown line by line; anything else as pytest does."""
        if isinstance(excinfo.value, Mismatch):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the case is written."""
        place = self.case.place
        return self.path, place.line - 1 if place else 0, self.case.words
