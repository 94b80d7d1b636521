"""A field's column as it is stored: read in batches, written back with `updated_at` untouched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import peewee as pw

from ...clock import is_sqlite
from ...errors import ConfigurationError, DecryptionError
from ...models.base import BaseModel
from ...sealing import is_sealed

# The triggers that set updated_at leave an UPDATE alone that sets it itself: so it goes away, and comes back.
_AWAY: Final = {True: "updated_at || ' '", False: "updated_at + interval '1 microsecond'"}
_BACK: Final = {True: "rtrim(updated_at)", False: "updated_at - interval '1 microsecond'"}

_GIVEN: Final = "WITH changed (id, was, becomes) AS (VALUES {rows})"
_CHANGE: Final = """
UPDATE {table}
SET {column} = changed.becomes{away}
FROM {changed} AS changed
WHERE {table}.{key} = changed.id
"""
# What is in clear goes to no server again, whose log may quote it: there its hash stands for it.
_UNCHANGED: Final = {
    True: "AND {table}.{column} = changed.was",
    False: "AND changed.was IN ({table}.{column}, encode(sha256(convert_to({table}.{column}, 'UTF8')), 'hex'))",
}
_WRITTEN: Final = " RETURNING {table}.{key}"
_GIVE_BACK: Final = "UPDATE {table} SET updated_at = {back} WHERE {key} IN ({ids})"
_ALL_IDS: Final = "SELECT id FROM {table}"
_LOCK: Final = "SELECT 1 FROM {table} WHERE {key} IN ({ids}) ORDER BY {key} FOR NO KEY UPDATE"


@dataclass(frozen=True)
class Change:
    """A row's stored value, and what is to take its place."""

    id: Any
    was: str
    becomes: str


@contextmanager
def in_row(row_id: Any) -> Iterator[None]:
    """Let a DecryptionError of the block tell the row."""
    try:
        yield
    except DecryptionError as error:
        raise DecryptionError(error.column, key_id=error.key_id, row_ids=(row_id,)) from None


class StoredColumn:
    """The column of a field that may be sealed, as plain SQL sees it."""

    def __init__(self, database: Any, field: Any) -> None:
        self.database = database
        self.field = field
        key = field.model._meta.primary_key
        if not isinstance(key, pw.Field):
            raise ConfigurationError(f"{field.place} can be changed in batches only with a primary key of one column")
        self._table = pw.Table(field.place.table, schema=field.place.schema).bind(database)
        self._key = key.column_name
        self._has_moment = issubclass(field.model, BaseModel) and "updated_at" in field.model._meta.fields

    def count(self, *, unlike: str = "") -> int:
        """The number of values that are not like a pattern, by default of all but empty ones."""
        return int(self._select(pw.fn.COUNT(pw.SQL("*")), unlike=unlike).scalar())

    def batches(self, size: int, *, unlike: str = "") -> Iterator[list[tuple[Any, str]]]:
        """Ids and stored values as count() counts them, in the order of the ids."""
        key, column = getattr(self._table.c, self._key), getattr(self._table.c, self.field.column_name)
        query = self._select(key, column, unlike=unlike).order_by(key).limit(size).tuples()
        rows = list(query)
        while rows:
            yield rows
            rows = list(query.where(key > rows[-1][0]))

    def _select(self, *columns: Any, unlike: str) -> Any:
        column = getattr(self._table.c, self.field.column_name)
        return self._table.select(*columns).where(pw.Expression(column, "NOT LIKE", pw.Value(unlike)))

    def write(self, changes: Iterable[Change]) -> int:
        """Store what still has the value that was read, in the caller's transaction; gives the number of rows."""
        changes = list(changes)
        if not changes:
            return 0
        if not is_sqlite(self.database):  # in one order, so that those who do the same do not wait for each other
            self._execute(_LOCK, [change.id for change in changes])
        rows = ", ".join([f"({', '.join([self.database.param] * 3)})"] * len(changes))
        values = [value for change in changes for value in (change.id, self._told(change.was), change.becomes)]
        statement = _GIVEN.format(rows=rows) + _CHANGE + _UNCHANGED[is_sqlite(self.database)] + _WRITTEN
        written = [key for (key,) in self._execute(statement, values, changed="changed").fetchall()]
        if written and self._has_moment:
            self._execute(_GIVE_BACK, written)
        return len(written)

    def _told(self, was: str) -> str:
        """What the database is told of the value that it should still have."""
        in_clear_to_a_server = not is_sealed(was) and not is_sqlite(self.database)
        return hashlib.sha256(was.encode()).hexdigest() if in_clear_to_a_server else was

    def write_from(self, table: str) -> None:
        """Store what a table of changes has, while nobody else writes."""
        self._execute(_CHANGE, changed=table)
        if self._has_moment:
            self._execute(_GIVE_BACK, ids=_ALL_IDS.format(table=table))

    def _execute(self, statement: str, values: Sequence[Any] = (), *, changed: str = "", ids: str = "") -> Any:
        sqlite = is_sqlite(self.database)
        sql = statement.format(
            table=self.field.place.quoted_table,
            column=f'"{self.field.column_name}"',
            key=f'"{self._key}"',
            changed=changed,
            ids=ids or ", ".join([self.database.param] * len(values)),
            away=f", updated_at = {_AWAY[sqlite]}" if self._has_moment else "",
            back=_BACK[sqlite],
        )
        return self.database.execute_sql(sql, values)
