"""SqliteFile: SQLite with foreign keys, one write lock from BEGIN on, and a memory database that threads share."""

from __future__ import annotations

import re
import sqlite3
import time
import uuid
from typing import Any, Final

import peewee as pw

from .acting import NOBODY, Acting, acting_on
from .config import DatabaseConfig
from .context import InUse
from .driver_errors import translated
from .errors import ConfigurationError, ConstraintViolation, DatabaseBusy, DatabaseUnavailable, StatementFailed
from .fetched import FetchedCursor
from .observed import Observed
from .pool import NO_CONNECTIONS
from .reading import WRITES, reading_on

_PRAGMAS: Final = {"foreign_keys": 1, "synchronous": "normal"}

_COMMITS: Final = re.compile(r"\s*(COMMIT|END)\b", re.IGNORECASE)
# SQLite has no settings of a transaction, but only one transaction that writes: a row that is gone at its end is one.
_HAS_ACTING: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'presgen_acting'"
_FORGET_ACTING: Final = "DELETE FROM presgen_acting"
_TELL_ACTING: Final = "INSERT INTO presgen_acting (user_id, actor) VALUES (?, ?)"


class _Connection(sqlite3.Connection):
    """A connection of the driver's, whose transaction may carry somebody."""

    database: SqliteFile
    may_carry = False


class _Cursor(sqlite3.Cursor):
    """SQLite computes a row when it is fetched, so that fetching fails as executing does.

    In a transaction, each statement that writes carries what its context's block of acting_as() says.
    """

    connection: _Connection

    def execute(self, sql: str, params: Any = ()) -> _Cursor:
        self._tell_for(sql)
        return super().execute(sql, params)

    def executemany(self, sql: str, params: Any) -> _Cursor:
        if self.connection.in_transaction or acting_on(self.connection.database) is NOBODY:
            self._tell_for(sql)
            return super().executemany(sql, params)
        with self.connection:  # commits, or rolls back
            super().execute("BEGIN IMMEDIATE")
            self._tell_for(sql)
            super().executemany(sql, params)
            self._tell(NOBODY)
        return self

    def _tell_for(self, sql: str) -> None:
        connection = self.connection
        if not connection.in_transaction:
            connection.may_carry = False
        elif connection.may_carry and _COMMITS.match(sql):
            self._tell(NOBODY)
        elif WRITES.search(sql):
            acting = acting_on(connection.database)
            if connection.may_carry or acting is not NOBODY:
                self._tell(acting)

    def _tell(self, acting: Acting) -> None:
        """Store it where triggers look, if there is such a table; it never outlives the transaction."""
        plain = sqlite3.Cursor(self.connection)
        if plain.execute(_HAS_ACTING).fetchone():
            self.connection.may_carry = True
            plain.execute(_FORGET_ACTING)
            if acting is not NOBODY:
                plain.execute(_TELL_ACTING, (acting.user_id, acting.actor))

    def fetchone(self) -> Any:
        return translated(_wrapped, super().fetchone)

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        rows: list[Any] = translated(_wrapped, super().fetchmany, size)
        return rows

    def fetchall(self) -> list[Any]:
        rows: list[Any] = translated(_wrapped, super().fetchall)
        return rows

    def __next__(self) -> Any:
        return translated(_wrapped, super().__next__)


def _wrapped(fetch: Any, *arguments: Any) -> Any:
    with pw.__exception_wrapper__:  # type: ignore[attr-defined]
        return fetch(*arguments)


class SqliteFile(Observed, pw.SqliteDatabase):
    """A SQLite file, or a database in memory that lives until `close_all()`.

    Transactions begin IMMEDIATE: a reader that turns writer half-way would fail instead of waiting.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        if sqlite3.sqlite_version_info < (3, 36):
            raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old; presgen needs 3.36")
        self.config = config
        in_memory = config.path == ":memory:"
        name = f"file:/presgen-{uuid.uuid4().hex}?vfs=memdb" if in_memory else config.path
        # A plain :memory: database belongs to one connection. SQLite's memdb is shared by its name, and lives as
        # long as one connection does: this one.
        self._keeper = sqlite3.connect(name, uri=True, check_same_thread=False) if in_memory else None
        super().__init__(
            name,
            pragmas=_PRAGMAS if in_memory else {**_PRAGMAS, "journal_mode": "wal"},
            lock_type="IMMEDIATE",
            check_same_thread=False,  # a session's threads use its connection one after the other
            timeout=config.pool_timeout,
            returning_clause=True,
            uri=in_memory,
            factory=_Connection,
        )
        self.observe(config)

    def connect(self, reuse_if_open: bool = False) -> bool:
        deadline = time.monotonic() + self.config.pool_timeout
        try:
            while True:
                try:
                    return translated(super().connect, reuse_if_open)
                except DatabaseBusy:  # SQLite does not wait for another process that turns to the write-ahead log
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
        except (StatementFailed, DatabaseBusy) as error:
            raise DatabaseUnavailable(
                f"cannot open {self.config.safe_url}: {error}; does its folder exist, and may you write there?"
            ) from None

    def cursor(self, named_cursor: str | None = None) -> Any:
        return self._connection().cursor(_Cursor)

    def _connection(self) -> _Connection:
        connection: _Connection = super().connection()  # type: ignore[no-untyped-call]
        connection.database = self
        return connection

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        after = reading_on(self)
        return self.execute_here(sql, params) if after is None else self.read(sql, params, after=after)

    def execute_here(self, sql: str, params: Any) -> Any:
        try:
            with InUse(self):
                # Who reads is asked nowhere; what writes outside a transaction gets one, in which it can carry them.
                if acting_on(self) is NOBODY or not WRITES.search(sql) or self._connection().in_transaction:
                    return super().execute_sql(sql, params)
                return self._in_a_transaction(sql, params)
        except ConstraintViolation as error:
            if error.constraint is None:
                error.constraint = self._unique_index(str(error))
            raise

    def _unique_index(self, message: str) -> str | None:
        """The name of the unique index that SQLite's message describes by its columns."""
        _, found, columns = message.partition("UNIQUE constraint failed: ")
        if not found:
            return None
        if columns.startswith("index "):  # on an expression, and so without columns
            return columns.removeprefix("index ").strip("'")
        table, names = columns.partition(".")[0], [column.partition(".")[2] for column in columns.split(", ")]
        indexes = self.get_indexes(table)
        return next((index.name for index in indexes if index.unique and index.columns == names), None)

    def _in_a_transaction(self, sql: str, params: Any) -> Any:
        self.begin()
        try:
            cursor = FetchedCursor(super().execute_sql(sql, params))
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return cursor

    def commit(self) -> None:
        translated(super().commit)

    def is_idle(self) -> bool:
        return self.is_closed() or not self._connection().in_transaction

    def rollback(self) -> None:
        """Roll back; without a transaction this is no error, as on PostgreSQL."""
        connection: Any = None if self.is_closed() else super().connection()  # type: ignore[no-untyped-call]
        if connection is None or connection.in_transaction:
            translated(super().rollback)

    def begin(self, lock_type: str | None = None) -> None:
        translated(super().begin, lock_type)

    def close_all(self) -> None:
        """Close this thread's connection, and with it, for a database in memory, all its data."""
        self.close()
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    def pool_stats(self) -> dict[str, float]:
        """SQLite has no pool; the connection in hand is all there is to count."""
        return {**NO_CONNECTIONS, "in_use": 0 if self.is_closed() else 1}
