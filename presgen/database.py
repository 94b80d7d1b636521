"""PostgresPool: a pooled PostgreSQL database that connects and checks outside its locks."""

from __future__ import annotations

import logging
import os
import re
import select
import socket
import time
from contextlib import suppress
from typing import Any, Final

import peewee as pw
import psycopg2
from playhouse.pool import PoolConnection, PooledPostgresqlDatabase
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR

from .config import DatabaseConfig
from .driver_errors import CONNECTION_LOST, connect_failure, is_lost, translated
from .errors import CommitUnknown, DatabaseUnavailable, PoolTimeout, TransactionAborted

logger = logging.getLogger("database")

# A quiet half-open connection shows nothing on its socket; after this long it is asked.
IDLE_SECONDS_BEFORE_PING: Final = 30.0

# Says of a statement whether it can change anything; values are parameters, so its text has none.
_WRITES: Final = re.compile(
    r"\b(INSERT|UPDATE|DELETE|MERGE|TRUNCATE|COPY|CREATE|ALTER|DROP|GRANT|REVOKE|REFRESH|CALL|DO)\b", re.IGNORECASE
)
_COMMIT_UNKNOWN: Final = "the connection was lost during COMMIT: read the rows again to learn whether it was applied"


class Observed:
    """What both backends share: errors of presgen's own, and statements that are logged without parameters."""

    slow_query_seconds: float
    is_retired = False
    """Whether the manager that opened the database has closed it."""
    query_hooks: list[Any]

    def observe(self, config: DatabaseConfig) -> None:
        """Log slow statements from now on, and every statement with `config.debug`."""
        self.slow_query_seconds = config.slow_query_seconds
        self.query_hooks.append(self._log_slow)
        if config.debug:
            self.query_hooks.append(_log_statement)

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        with translated():
            return super().execute_sql(sql, params)  # type: ignore[misc]

    def _log_query(self, sql: str, params: Any) -> None:
        """Keep peewee's own debug log, which prints parameters, silent."""

    def _log_slow(self, event: Any) -> None:
        if event.duration > self.slow_query_seconds:
            logger.warning("Slow query (%.2fs): %s", event.duration, event.sql)


def _log_statement(event: Any) -> None:
    logger.debug("%.4fs: %s", event.duration, event.sql)


class PostgresPool(Observed, PooledPostgresqlDatabase):
    """At most `pool_size + max_overflow` connections, of which `pool_size` stay open when idle.

    Waiting for a connection ends with PoolTimeout after `pool_timeout` seconds. A connection is checked
    when it is handed out: by its socket always, by a statement when it was idle for long. Opening and
    checking happen outside the pool's lock, so that a server that does not answer delays only who asked.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        self.config = config
        self._opening = 0
        super().__init__(
            config.database,
            max_connections=config.pool_size + config.max_overflow,
            stale_timeout=config.pool_recycle,
            timeout=config.pool_timeout,
        )
        self.observe(config)

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Check a connection out for this thread; raises PoolTimeout or DatabaseUnavailable."""
        # Peewee holds its database-wide lock here. The state belongs to the thread, so none is needed.
        if not self._state.closed:
            if reuse_if_open:
                return False
            raise pw.OperationalError("Connection already opened.")
        connection = self._checkout()
        self._state.set_connection(connection)
        self.server_version = connection.server_version
        return True

    def close(self) -> bool:
        """Check this thread's connection in; an open transaction is an error, as in peewee."""
        if self._state.closed:
            return False
        connection = self._state.conn
        if self.in_transaction() and not is_lost(connection):
            raise pw.OperationalError("Attempting to close database while transaction is open.")
        self._state.reset()
        self._close(connection)
        return True

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        if self._state.closed and self.autoconnect:
            self.connect()  # here, so that waiting for a connection does not count as a slow statement
        connection = self._state.conn
        commits_itself = connection.get_transaction_status() == TRANSACTION_STATUS_IDLE
        if commits_itself:
            self._require_alive()
        try:
            return super().execute_sql(sql, params)
        except DatabaseUnavailable:
            self._detach_if_lost()
            if commits_itself and is_lost(connection) and _WRITES.search(sql):
                raise CommitUnknown(_COMMIT_UNKNOWN) from None
            raise

    def _require_alive(self) -> None:
        """Raise DatabaseUnavailable when the connection in hand has ended: what was never sent is no unknown commit."""
        connection = self._state.conn
        if _has_something_to_read(connection) and self._is_closed(connection):
            connection.close()
            self._detach_if_lost()
            raise DatabaseUnavailable(CONNECTION_LOST)

    def begin(self, isolation_level: str | int | None = None) -> None:
        try:
            with translated():
                super().begin(isolation_level)
        except DatabaseUnavailable:
            self._detach_if_lost()
            raise

    def commit(self) -> None:
        """Commit; raises CommitUnknown when the connection is lost before the server has answered.

        Raises TransactionAborted when a statement had failed and the error was swallowed.
        """
        if not self._state.closed and self._state.conn.get_transaction_status() == TRANSACTION_STATUS_INERROR:
            raise TransactionAborted  # the server would answer such a COMMIT with ROLLBACK, and no error
        try:
            with translated():
                super().commit()
        except DatabaseUnavailable:
            raise CommitUnknown(_COMMIT_UNKNOWN) from None

    def rollback(self) -> None:
        """Roll back; a lost connection has done so already, and must not mask the error that led here."""
        try:
            with translated():
                super().rollback()
        except DatabaseUnavailable:
            self._detach_if_lost()

    def close_all(self) -> None:
        """Close every connection; a statement that another thread waits for is broken off."""
        self.close()
        with self._pool_available:
            idle = [connection for _, _, connection in self._connections]
            in_use = [checked_out.connection for checked_out in self._in_use.values()]
            self._connections.clear()
            self._in_use.clear()
            self._pool_available.notify_all()
        for connection in in_use:
            _break_off(connection)  # closing would wait for its statement
        for connection in idle + in_use:
            self._close_raw(connection)

    def pool_stats(self) -> dict[str, int]:
        """How many connections are in use and idle, and how many there may be."""
        with self._pool_lock:
            return {
                "in_use": len(self._in_use) + self._opening,
                "idle": len(self._connections),
                "max_connections": self._max_connections,
            }

    def _detach_if_lost(self) -> None:
        """Drop a dead connection, so that the thread's next statement outside the transaction gets a fresh one."""
        if not self._state.closed and not self.in_transaction() and is_lost(self._state.conn):
            self.close()

    def _checkout(self) -> Any:
        deadline = time.monotonic() + self.config.pool_timeout
        while True:
            idle = self._idle_or_slot(deadline)
            if idle is None:
                return self._open()
            created, idle_since, connection = idle
            if self._is_usable(connection, created=created, idle_since=idle_since):
                return connection
            self._discard(connection)

    def _idle_or_slot(self, deadline: float) -> tuple[float, float, Any] | None:
        """An idle connection, marked as in use; None when the caller may open one in its place."""
        with self._pool_available:
            while True:
                if self._connections:
                    # The connection used last comes out first; what is surplus grows old and is recycled.
                    idle: tuple[float, float, Any] = self._connections.pop()
                    self._in_use[self.conn_key(idle[2])] = PoolConnection(idle[0], idle[2], time.time())
                    return idle
                if len(self._in_use) + self._opening < self._max_connections:
                    self._opening += 1
                    return None
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise PoolTimeout(
                        f"all {self._max_connections} connections stayed in use for {self.config.pool_timeout:g} s; "
                        "return connections sooner, or raise DATABASE_POOL_SIZE"
                    )
                self._pool_available.wait(remaining)

    def _open(self) -> Any:
        connection = None
        try:
            connection = psycopg2.connect(**self.config.connect_parameters())
            connection.autocommit = True
            return connection
        except psycopg2.Error as error:
            raise connect_failure(error, self.config.safe_url) from None
        finally:
            with self._pool_available:
                self._opening -= 1
                if connection is None:
                    self._pool_available.notify()
                else:
                    now = time.time()
                    self._in_use[self.conn_key(connection)] = PoolConnection(now, connection, now)

    def _is_usable(self, connection: Any, *, created: float, idle_since: float) -> bool:
        if is_lost(connection) or self._is_stale(created) or _has_something_to_read(connection):
            return False
        return time.time() - idle_since < IDLE_SECONDS_BEFORE_PING or not self._is_closed(connection)

    def _discard(self, connection: Any) -> None:
        """Close a connection for good and give its slot back."""
        with self._pool_available:
            self._in_use.pop(self.conn_key(connection), None)
            self._pool_available.notify()
        self._close_raw(connection)

    def _close(self, connection: Any, close_conn: bool = False) -> None:
        """Check a connection in, rolling back outside the lock what was left open."""
        checked_out = self._in_use.get(self.conn_key(connection))
        if checked_out is None or close_conn or is_lost(connection) or not self._can_reuse(connection):
            self._discard(connection)
            return
        with self._pool_available:
            if len(self._connections) < self.config.pool_size:
                del self._in_use[self.conn_key(connection)]
                self._connections.append((checked_out.timestamp, time.time(), connection))
                self._pool_available.notify()
                return
        self._discard(connection)


def _break_off(connection: Any) -> None:
    """Shut a connection's line down, so that the thread that waits for its server gets an error at once."""
    if not is_lost(connection):
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


def _has_something_to_read(connection: Any) -> bool:
    """Whether an idle connection's socket is readable: the server has closed it, or is out of step with us."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poller.poll(0))
