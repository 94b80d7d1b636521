"""MigrationDatabase: one connection for migrations, with limits of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from ..config import DatabaseConfig
from ..database import PostgresPool, Savepoint
from ..errors import MigrationError
from .concurrent import concurrent

LOCK_TIMEOUT: Final = "2s"
"""How long a migration waits for a table's lock, while which whoever comes after it waits as well."""

_HAS_WRITTEN: Final = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"
_LIMIT: Final = "SELECT set_config('lock_timeout', %s, %s)"


class _Savepoint(Savepoint):
    """A savepoint that is made again in the transaction that goes on after a statement outside of it."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        self.db.savepoints.append(self)
        return entered

    def __exit__(self, *error: Any) -> Any:
        self.db.savepoints.remove(self)
        return super().__exit__(*error)


class MigrationDatabase(PostgresPool):
    """The server as migrations see it.

    A statement waits for a lock no longer than LOCK_TIMEOUT, and may take as long as it takes, whatever the
    application's own statements may take. What PostgreSQL does outside a transaction only, building and dropping
    indexes CONCURRENTLY, is done outside the router's one, and without a limit for its waiting, which keeps nobody.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        super().__init__(replace(config, pool_size=1, max_overflow=0, statement_timeout=None, replica_urls=()))
        self.savepoints: list[_Savepoint] = []

    def savepoint(self) -> Any:
        return _Savepoint(self)

    def limit_waiting(self) -> None:
        """Let the connection, or through PgBouncer the transaction, wait no longer than LOCK_TIMEOUT for a lock."""
        self._set_lock_timeout(LOCK_TIMEOUT)

    def _set_lock_timeout(self, timeout: str) -> None:
        super().execute_sql(_LIMIT, (timeout, bool(self.config.pgbouncer)))

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        statement = concurrent(sql)
        if statement is None:
            return super().execute_sql(sql, params)
        with self._outside_the_transaction():
            statement.run(super().execute_sql)
        return super().execute_sql("SELECT")

    @contextmanager
    def _outside_the_transaction(self) -> Iterator[None]:
        """Commit what has only read so far, and begin again afterwards; raises MigrationError."""
        if self.config.pgbouncer:
            raise MigrationError("nothing is built or dropped CONCURRENTLY through PgBouncer: use the server itself")
        if super().execute_sql(_HAS_WRITTEN).fetchone()[0]:
            raise MigrationError(
                "what is done CONCURRENTLY comes first in a migration: what comes before it could not be undone with it"
            )
        self.commit()
        try:
            self._set_lock_timeout("0")
            yield
        finally:
            self.limit_waiting()
            self.begin()
            for savepoint in self.savepoints:
                savepoint._begin()  # type: ignore[attr-defined]
