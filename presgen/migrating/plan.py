"""A plan: what migrations will execute, and what that keeps others from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..clock import is_sqlite
from ..context import session
from .locks import Lock, Tables
from .recording import Recorder


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


def plan(
    database: Any, folder: Path, known: Sequence[str], steps: Sequence[str], *, undoing: bool = False
) -> list[PlannedStep]:
    """What the steps would do, in their order; nothing is written. Raises MigrationError."""
    recorder, tables = Recorder(folder, database), Tables()

    def planned(statements: list[str]) -> tuple[PlannedStatement, ...]:
        # SQLite locks the whole file, once for the whole run.
        return tuple(
            PlannedStatement(sql, () if is_sqlite(database) else tuple(tables.locks_of(sql))) for sql in statements
        )

    with _reading_only(database):
        if undoing:
            for name in known:
                planned(recorder.statements_of(name))
            tables.created.clear()
            return [PlannedStep(name, planned(recorder.undoing_statements_of(name))) for name in steps]
        for name in known[: known.index(steps[0])] if steps else ():
            planned(recorder.statements_of(name))
        tables.created.clear()
        return [PlannedStep(name, planned(recorder.statements_of(name))) for name in steps]


@contextmanager
def _reading_only(database: Any) -> Iterator[None]:
    with session(database), database.atomic():
        if not is_sqlite(database):
            database.execute_sql("SET TRANSACTION READ ONLY")
        yield
