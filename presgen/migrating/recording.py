"""What a migration would execute, without executing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Final

import peewee as pw

from ..clock import is_sqlite
from ..errors import MigrationError
from ..reading import Kind, kind_of

if TYPE_CHECKING:
    from peewee_migrate import Router

_SETTINGS: Final = ("PRAGMA", "SET ", "RESET ")


class _NoRows:
    """The answer to a statement that is not executed."""

    rowcount = 0
    lastrowid = None
    description: tuple[()] = ()

    def fetchone(self) -> None:
        return None

    def fetchall(self) -> list[Any]:
        return []

    fetchmany = fetchall

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Recording:
    """Writes down what it is to execute; a database answers what is read, or nothing does."""

    statements: list[str]
    source: Any = None
    param: str

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        if kind_of(sql) is Kind.READ:
            return _NoRows() if self.source is None else self.source.execute_here(sql, params)
        if not sql.lstrip().upper().startswith(_SETTINGS):
            self.statements.append(_with_values(sql.replace("?", "%s") if self.param == "?" else sql, params))
        return _NoRows()

    def pragma(self, *_: Any, **__: Any) -> None:
        return None

    @contextmanager
    def atomic(self, *_: Any, **__: Any) -> Iterator[None]:
        yield

    transaction = savepoint = manual_commit = atomic

    def connect(self, reuse_if_open: bool = False) -> bool:
        return False

    def begin(self, *_: Any) -> None:
        pass

    commit = rollback = close = begin


class _RecordingPostgresql(_Recording, pw.PostgresqlDatabase):  # type: ignore[misc]
    pass


class _RecordingSqlite(_Recording, pw.SqliteDatabase):  # type: ignore[misc]
    pass


class Recorder:
    """The statements of a folder's migrations, for the backend of `source`, which answers what they read.

    Without a source they are PostgreSQL's, and what migrations read is empty.
    """

    def __init__(self, folder: Path, source: Any = None) -> None:
        from peewee_migrate import Migrator, Router

        recording: Any = _RecordingSqlite if source is not None and is_sqlite(source) else _RecordingPostgresql
        self._database = recording(None)
        self._database.source = source
        self._router: Router = Router(self._database, migrate_dir=folder)
        self._migrator = Migrator(self._database)

    def statements_of(self, name: str) -> list[str]:
        """What the migration would execute; those before it have to be recorded before. Raises MigrationError."""
        migrate, _ = self._router.read(name)
        return self._record(name, migrate)

    def undoing_statements_of(self, name: str) -> list[str]:
        """What rolling it back would execute, when it and all before it were recorded. Raises MigrationError."""
        _, rollback = self._router.read(name)
        return self._record(name, rollback)

    def _record(self, name: str, step: Any) -> list[str]:
        statements: list[str] = []
        self._database.statements = statements
        try:
            step(self._migrator, self._database, fake=False)
            self._migrator()
        except Exception as error:  # whatever the file's code raises
            raise MigrationError(f"{name} cannot be told beforehand: {str(error).strip()}") from error
        return statements


def _with_values(sql: str, params: Any) -> str:
    """The statement as a person would type it; values are shown as literals, for reading only."""
    values = tuple("'{}'".format(str(value).replace("'", "''")) for value in params or ())
    text = sql % values if values else sql.replace("%%", "%")
    return dedent(text.strip("\n")).strip().rstrip(";")
