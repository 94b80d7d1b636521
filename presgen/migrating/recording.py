"""What a migration would execute, without executing it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import peewee as pw
from peewee_migrate import Migrator as Queue
from peewee_migrate import Router
from psycopg2.extensions import adapt

from ..clock import is_sqlite
from ..context import session
from ..errors import MigrationError
from ..reading import Kind, kind_of


class _NoRows:
    """The answer to a statement that is not executed."""

    rowcount = 0
    lastrowid = None
    description: tuple[()] = ()

    def fetchone(self) -> None:
        return None

    def fetchall(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass

    fetchmany = fetchall

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Recording:
    """Writes down what it is to execute; a database answers what Python reads, or nothing does."""

    statements: list[str]
    source: Any = None
    has_read = False

    def execute(self, query: Any, **options: Any) -> Any:
        if isinstance(query, pw.SQL):  # of migrator.sql(), whose rows nobody looks at
            return self._recorded(query.sql, query.params)
        return super().execute(query, **options)  # type: ignore[misc]

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        if kind_of(sql.rstrip().rstrip(";")) is not Kind.READ:
            return self._recorded(sql, params)
        self.has_read = True
        return _NoRows() if self.source is None else self.source.execute_here(sql, params)

    def _recorded(self, sql: str, params: Any) -> _NoRows:
        if not sql.lstrip().upper().startswith("PRAGMA"):
            self.statements.append(_with_values(sql, params, placeholder=self.param))  # type: ignore[attr-defined]
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
    """The statements of a folder's migrations, for the backend of `source`, which answers what their Python reads.

    Without a source they are PostgreSQL's, and what migrations read is empty.
    """

    def __init__(self, folder: Path, source: Any = None) -> None:
        recording: Any = _RecordingSqlite if source is not None and is_sqlite(source) else _RecordingPostgresql
        self._database = recording(None)
        self._database.source = source
        self._router: Router = Router(self._database, migrate_dir=folder)
        self.queue: Any = Queue(self._database)
        """peewee-migrate's migrator, which knows the models of what was recorded so far."""

    def statements_of(self, name: str) -> list[str]:
        """What the migration would execute; those before it have to be recorded before. Raises MigrationError."""
        migrate, _ = self._router.read(name)
        return self._record(name, migrate)

    def undoing_statements_of(self, name: str) -> list[str]:
        """What rolling it back would execute, when it and all before it were recorded. Raises MigrationError."""
        _, rollback = self._router.read(name)
        return self._record(name, rollback)

    def replay(self, name: str) -> bool:
        """Learn what the migration made, as is done before later ones; whether it left the database alone."""
        migrate, _ = self._router.read(name)
        self._database.statements, self._database.has_read = [], False
        migrate(self.queue, self._database, fake=True)
        self.queue.__ops__ = []
        return not self._database.statements and not self._database.has_read

    def _record(self, name: str, step: Any) -> list[str]:
        statements: list[str] = []
        self._database.statements = statements
        is_in_its_steps = False
        try:
            step(self.queue, self._database, fake=False)
            is_in_its_steps = True
            self.queue()
        except Exception as error:  # whatever the file's code raises
            self.queue.__ops__ = []
            reason = str(error).strip() or repr(error)
            raise NotTold(f"{name} cannot be told beforehand: {reason}", statements, is_in_its_steps) from error
        return statements


class NotTold(MigrationError):
    """A migration's code fails where its statements are not executed."""

    def __init__(self, message: str, statements: list[str], is_in_its_steps: bool) -> None:
        super().__init__(message)
        self.statements = statements
        """What it would execute before that."""
        self.is_in_its_steps = is_in_its_steps
        """Whether that is one of the steps that it has queued, such as Python that reads rows."""


@contextmanager
def reading_only(database: Any) -> Iterator[None]:
    """A transaction in which the server refuses writes; on SQLite one that nobody has to write in."""
    with session(database), database.atomic():
        if not is_sqlite(database):
            database.execute_sql("SET TRANSACTION READ ONLY")
        yield


def _with_values(sql: str, params: Any, *, placeholder: str) -> str:
    """The statement as a person would type it, with values as literals; raises MigrationError for a lone %."""
    if isinstance(params, Mapping):
        values: Any = {name: _literal(value) for name, value in params.items()}
    else:
        values = tuple(_literal(value) for value in params or ())
    if placeholder == "?":
        rest = iter(values)
        text = re.sub(r"'(?:[^']|'')*'|\?", lambda found: next(rest) if found[0] == "?" else found[0], sql)
        text = text.replace("%%", "%")
    else:
        try:
            text = sql % values
        except (ValueError, TypeError) as error:
            raise MigrationError(f"a % in SQL that is no placeholder is written as %%: {error}") from None
    return dedent(text.strip("\n")).strip().rstrip(";")


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"ARRAY[{', '.join(map(_literal, value))}]"
    adapted = adapt(value)
    if isinstance(value, str):
        adapted.encoding = "utf-8"
    quoted: bytes = adapted.getquoted()
    return quoted.decode()
