"""MigrationDatabase: one connection for migrations, with limits of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

from ..config import DatabaseConfig
from ..database import PostgresPool, Savepoint
from ..errors import MigrationError, StatementFailed
from .concurrent import concurrent
from .turns import LOCK_TIMEOUT

_HAS_WRITTEN: Final = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"
_SET: Final = "SELECT set_config(name, %s, %s) FROM pg_settings WHERE name = ANY (%s)"
# What a role or database may limit, and what is not for migrations.
_UNLIMITED: Final = ["statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"]
# A server that looks after its client ends what a killed migrator has begun, and gives its locks back.
_LOOK_AFTER: Final = "SET client_connection_check_interval = '1s'"


class _Savepoint(Savepoint):
    """A savepoint that is made again when its transaction was committed before its end, and another one has begun."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        self.db._savepoints.append(self)
        return entered

    def __exit__(self, *error: Any) -> Any:
        self.db._savepoints.remove(self)
        return super().__exit__(*error)


class MigrationDatabase(PostgresPool):
    """The server as migrations see it.

    A statement waits for a lock no longer than LOCK_TIMEOUT, and may take as long as it takes, whatever other
    statements may take. When its client is killed, it ends within a second. What PostgreSQL does outside a transaction
    only, building and dropping indexes CONCURRENTLY, is done outside the router's one, and without a limit for its
    waiting, which keeps nobody.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        super().__init__(replace(config, pool_size=1, max_overflow=0, statement_timeout=None, replica_urls=()))
        self._savepoints: list[_Savepoint] = []
        self.has_committed_half = False
        """Whether something was committed since this was last set back, which is when a migration begins."""

    def savepoint(self) -> Any:
        return _Savepoint(self)

    def set_limits(self) -> None:
        """Let the connection, or through PgBouncer the transaction, wait no longer than LOCK_TIMEOUT for a lock."""
        self._set(LOCK_TIMEOUT, ["lock_timeout"])
        self._set("0", _UNLIMITED)
        if not self.config.pgbouncer:
            with suppress(StatementFailed):  # where the operating system cannot tell
                super().execute_sql(_LOOK_AFTER)

    def _set(self, value: str, names: list[str]) -> None:
        super().execute_sql(_SET, (value, bool(self.config.pgbouncer), names))

    def begin(self, isolation_level: str | int | None = None) -> None:
        super().begin(isolation_level)
        for savepoint in self._savepoints:
            savepoint._begin()  # type: ignore[attr-defined]

    def commit(self) -> None:
        super().commit()
        self.has_committed_half = True

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
        super().commit()
        try:
            self._set("0", ["lock_timeout"])
            yield
            self.has_committed_half = True
        finally:
            self._set(LOCK_TIMEOUT, ["lock_timeout"])
            self.begin()
