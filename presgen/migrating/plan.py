"""A plan: what migrations will execute, and what that keeps others from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..clock import is_sqlite
from .locks import Lock, Tables
from .recording import NotTold, Recorder, reading_only


@dataclass(frozen=True)
class PlannedStatement:
    """A statement, and the locks that it takes on tables of which others know."""

    sql: str
    locks: tuple[Lock, ...]


@dataclass(frozen=True)
class PlannedStep:
    """A migration that is to be applied, or rolled back."""

    name: str
    statements: tuple[PlannedStatement, ...]
    problem: str | None = None
    """Why the rest of it, and what comes after it, cannot be told."""


def plan(
    database: Any, folder: Path, applied: Sequence[str], steps: Sequence[str], *, undoing: bool = False
) -> list[PlannedStep]:
    """What the steps would do after what is applied, in their order, as far as that can be told; writes nothing."""
    recorder, tables = Recorder(folder, database), Tables()

    def planned(name: str, statements: Callable[[str], list[str]]) -> PlannedStep:
        problem = None
        try:
            told = statements(name)
        except NotTold as error:
            told, problem = error.statements, str(error)
        # SQLite locks the whole file, once for the whole run.
        locks = (() if is_sqlite(database) else tuple(tables.locks_of(sql)) for sql in told)
        return PlannedStep(name, tuple(map(PlannedStatement, told, locks)), problem)

    with reading_only(database):
        for name in applied:
            planned(name, recorder.statements_of)
        tables.created.clear()
        found = []
        for name in steps:
            found.append(planned(name, recorder.undoing_statements_of if undoing else recorder.statements_of))
            if found[-1].problem is not None:
                break
        return found
