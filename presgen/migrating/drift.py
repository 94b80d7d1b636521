"""Drift: where a database is not what the models and migrations of this version declare."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import peewee as pw

from ..clock import is_sqlite
from ..context import session
from ..errors import ConfigurationError, StatementInvalid
from ..models import MODELS
from .catalog import TABLES, Catalog, catalog, execute_text
from .concurrent import COMMENT
from .recording import Recorder, reading_only

_DEFINES: Final = re.compile(
    r"(CREATE|DROP|ALTER)\s+(OR\s+REPLACE\s+)?(CONSTRAINT\s+)?(FUNCTION|TRIGGER)\b", re.IGNORECASE
)
_REQUIRED: Final = re.compile(r"NOT NULL(?!.*(DEFAULT|IDENTITY|GENERATED))", re.DOTALL)
_CASTS: Final = re.compile(r"::(character varying|text)(\(\d+\))?(\[\])?")
_SINGULAR: Final = {
    "columns": "column",
    "constraints": "constraint",
    "indexes": "index",
    "triggers": "trigger",
    "functions": "function",
    "switches": "switch",
}


@dataclass(frozen=True)
class Difference:
    """Something of presgen's tables that is declared and not there, there and not declared, or another one."""

    kind: str
    """column, constraint, index, trigger, function or switch."""
    table: str
    name: str
    declared: str | None
    found: str | None

    @property
    def is_fault(self) -> bool:
        """Whether presgen misses it, cannot write beside it, or has left it; what else is there is nobody's fault."""
        is_in_the_way = self.kind == "column" and _REQUIRED.search(str(self.found)) is not None
        is_left = self.kind == "constraint" and self.name.startswith("presgen_")
        return self.declared is not None or self.kind == "switch" or is_in_the_way or is_left

    def __str__(self) -> str:
        place = f"{self.kind} {self.name}" + (f" of {self.table}" if self.table else "")
        if self.found is None:
            return f"{place} is missing: {self.declared}"
        if self.declared is None:
            return f"{place} is not declared: {self.found}"
        return f"{place} is {self.found}, and declared as {self.declared}"


def differences(database: Any, folder: Path, known: Sequence[str], *, other: Collection[str] = ()) -> list[Difference]:
    """How the database's tables, indexes, constraints, triggers and functions differ from what is declared.

    What a pattern of `other` matches is somebody else's matter: a name, or a column with its table. The models' tables,
    and the migrations' triggers and functions, are built in a schema of their own, which nobody else sees and which is
    rolled back; raises ConfigurationError where the role may not create one.
    """
    with session(database):
        found = catalog(database)
        return compared(_declared(database, folder, known), found, other)


def _declared(database: Any, folder: Path, known: Sequence[str]) -> Catalog:
    """What a database has when the models and migrations have made it; raises ConfigurationError as differences()."""
    recorder = Recorder(folder, database)
    with reading_only(database):
        statements = [sql for name in known for sql in recorder.statements_of(name)]
    with _scratch(database) as scratch:
        for model in MODELS:
            pw.SchemaManager(model, scratch).create_all(safe=False)
        for sql in statements:
            if _DEFINES.match(COMMENT.sub(" ", sql).strip()):
                # A trigger on what is not of the models, such as a column that the next version has, is left out.
                with suppress(StatementInvalid, pw.OperationalError), scratch.atomic():
                    execute_text(scratch, sql)
        return catalog(scratch)


def built_by(database: Any, statements: Sequence[str]) -> Catalog:
    """What statements make of an empty database; raises ConfigurationError as differences()."""
    with _scratch(database) as scratch:
        for sql in statements:
            execute_text(scratch, sql)
        return catalog(scratch)


@contextmanager
def _scratch(database: Any) -> Iterator[Any]:
    """A database, or a schema, in which nothing is, and of which nothing is left."""
    if is_sqlite(database):
        with pw.SqliteDatabase(":memory:") as memory:
            yield memory
        return
    with session(database), database.atomic() as transaction:
        scratch = f"presgen_declared_{uuid.uuid4().hex}"
        try:
            database.execute_sql(f"CREATE SCHEMA {scratch}")
        except StatementInvalid as error:
            raise ConfigurationError(f"to compare, connect as a role that may create a schema: {error}") from None
        database.execute_sql(f"SET LOCAL search_path = {scratch}")
        yield database
        transaction.rollback()


def compared(wanted: Catalog, found: Catalog, other: Collection[str] = ()) -> list[Difference]:
    """The differences, by table, but for what a pattern of `other` matches."""
    return sorted(_compared(wanted, found, other), key=lambda one: (one.table, one.kind, one.name))


def _compared(wanted: Catalog, found: Catalog, other: Collection[str]) -> Iterator[Difference]:
    for kind, things in wanted.items():
        before = {(table, name): text for table, name, text in things}
        after = {(table, name): text for table, name, text in found[kind] if table in TABLES or not table}
        for table, name in before.keys() | after.keys():
            one, two = before.get((table, name)), after.get((table, name))
            full_name = f"{table}.{name}" if kind == "columns" else name
            if one is None and kind == "functions":  # which nothing of presgen's calls
                continue
            if _plain(one) != _plain(two) and not any(fnmatchcase(full_name, pattern) for pattern in other):
                yield Difference(_SINGULAR[kind], table, name, one, two)


def _plain(text: str | None) -> str | None:
    """Without the casts of words and the blanks in which PostgreSQL's texts differ after a dump was restored."""
    return None if text is None else _CASTS.sub("", text).replace("(ARRAY", "ARRAY").replace("])", "]").strip()
