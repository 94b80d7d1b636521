"""PostgresPool: a pooled PostgreSQL database that connects and checks outside its locks."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import peewee as pw
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR

from .config import DatabaseConfig
from .context import Contextual, Session, session, session_of
from .driver_errors import CONNECTION_LOST, is_lost, require_sendable, translated
from .errors import (
    CommitUnknown,
    DatabaseUnavailable,
    ReadOnlyServer,
    TransactionAborted,
    TransactionElsewhere,
    ValidationError,
)
from .fetched import FetchedCursor
from .pool import WATCHDOG, WATCHDOG_MARGIN_SECONDS, Checkout, has_something_to_read

logger = logging.getLogger("database")

# Says of a statement whether it can change anything; values are parameters, so its text has none.
_WRITES: Final = re.compile(
    r"\b(INSERT|UPDATE|DELETE|MERGE|TRUNCATE|COPY|CREATE|ALTER|DROP|GRANT|REVOKE|REFRESH|CALL|DO)\b", re.IGNORECASE
)
_COMMIT_UNKNOWN: Final = "the connection was lost during COMMIT: read the rows again to learn whether it was applied"


class Observed(Contextual):
    """What both backends share: sessions, errors of presgen's own, and statements logged without parameters."""

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

    def execute(self, query: Any, **options: Any) -> Any:
        try:
            return super().execute(query, **options)  # type: ignore[misc]
        except RecursionError:
            raise ValidationError("a value in the statement is nested too deep", rule="depth") from None

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        require_sendable(params.values() if isinstance(params, Mapping) else params or ())
        return translated(super().execute_sql, sql, params)  # type: ignore[misc]

    def connection_context(self) -> Any:
        """A session; peewee's own closes the connection of the block around it."""
        return session(self)

    def push_transaction(self, transaction: Any) -> None:
        self._take()  # connecting later would forget the transaction
        super().push_transaction(transaction)  # type: ignore[misc]

    def pop_transaction(self) -> Any:
        if not self._state.transactions:
            raise TransactionElsewhere
        return super().pop_transaction()  # type: ignore[misc]

    def _take(self) -> None:
        """See to it that there is a connection in hand."""
        self.connect(reuse_if_open=True)  # type: ignore[attr-defined]

    def _log_query(self, sql: str, params: Any) -> None:
        """Keep peewee's own debug log, which prints parameters, silent."""

    def _log_slow(self, event: Any) -> None:
        if event.duration > self.slow_query_seconds:
            logger.warning("Slow query (%.2fs): %s", event.duration, event.sql)


def _log_statement(event: Any) -> None:
    logger.debug("%.4fs: %s", event.duration, event.sql)


class _Savepoint(pw._savepoint):
    def rollback(self, begin: bool = True) -> None:
        """Roll back; at the end of its block, a lost connection must not mask the error that led here."""
        try:
            super().rollback(begin)
        except DatabaseUnavailable:
            if begin:
                raise


class PostgresPool(Observed, Checkout):
    """At most `pool_size + max_overflow` connections, of which `pool_size` stay open when idle.

    Waiting for a connection ends with PoolTimeout after `pool_timeout` seconds. A connection is checked
    when it is handed out: by its socket always, by a statement when it was idle for long. Opening and
    checking happen outside the pool's lock, so that a server that does not answer delays only who asked, and that
    one by its deadline: `statement_timeout` for statements and COMMIT, `connect_timeout` for the rest. Through
    PgBouncer the server does not know of `statement_timeout`: what takes longer is broken off as if the server were
    silent, and the server may go on with it.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        super().__init__(config)
        self._limits = threading.local()
        self.observe(config)

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Check a connection out for this session or thread; raises PoolTimeout or DatabaseUnavailable."""
        # Peewee holds its database-wide lock here. The state belongs to the thread or session, so none is needed.
        if not self._state.closed:
            if reuse_if_open:
                return False
            raise pw.OperationalError("Connection already opened.")
        connection = self._checkout()
        self._state.set_connection(connection)
        self.server_version = connection.server_version
        return True

    def close(self) -> bool:
        """Check the connection in hand in; an open transaction is an error, as in peewee."""
        if self._state.closed:
            return False
        connection = self._state.conn
        if self.in_transaction() and not is_lost(connection):
            raise pw.OperationalError("Attempting to close database while transaction is open.")
        self._state.reset()
        self._close(connection)
        return True

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement; without a session or an open connection, on one that is in hand only for so long."""
        self._take()  # here, so that waiting for a connection does not count as a slow statement
        session = session_of(self)
        if session is None or session.keeps_connection:
            return self._execute_in_hand(sql, params)
        try:
            return FetchedCursor(self._execute_in_hand(sql, params))
        finally:
            self._give_back_if_done()

    def _execute_in_hand(self, sql: str, params: Any) -> Any:
        connection = self._state.conn
        commits_itself = connection.get_transaction_status() == TRANSACTION_STATUS_IDLE
        if commits_itself:
            self._require_alive()
        try:
            with self._within(self.config.statement_timeout):
                return super().execute_sql(sql, params)
        except ReadOnlyServer:
            self._unwanted.add(self.conn_key(connection))  # of several hosts, another one may be the primary by now
            self._detach_if_useless()
            raise
        except DatabaseUnavailable:
            self._detach_if_useless()
            if commits_itself and is_lost(connection) and _WRITES.search(sql):
                raise CommitUnknown(_COMMIT_UNKNOWN) from None
            raise

    def _require_alive(self) -> None:
        """Raise DatabaseUnavailable when the connection in hand has ended: what was never sent is no unknown commit."""
        connection = self._state.conn
        if has_something_to_read(connection) and self._is_closed(connection):
            connection.close()
            self._detach_if_useless()
            raise DatabaseUnavailable(CONNECTION_LOST)

    def begin(self, isolation_level: str | int | None = None) -> None:
        self._take()
        try:
            with self._within(self.config.connect_timeout):
                translated(super().begin, isolation_level)
        except DatabaseUnavailable:
            self._detach_if_useless()
            raise
        finally:
            self._give_back_if_done()

    def commit(self) -> None:
        """Commit; raises CommitUnknown when the connection is lost before the server has answered.

        Raises TransactionAborted when a statement had failed and the error was swallowed.
        """
        if not self._state.closed and self._state.conn.get_transaction_status() == TRANSACTION_STATUS_INERROR:
            raise TransactionAborted  # the server would answer such a COMMIT with ROLLBACK, and no error
        try:
            with self._within(self.config.statement_timeout):
                translated(super().commit)
        except DatabaseUnavailable:
            raise CommitUnknown(_COMMIT_UNKNOWN) from None
        finally:
            self._give_back_if_done()

    def rollback(self) -> None:
        """Roll back; a lost connection has done so already, and must not mask the error that led here."""
        if self._state.closed:
            return
        try:
            with self._within(self.config.connect_timeout):
                translated(super().rollback)
        except DatabaseUnavailable:
            pass
        finally:
            self._detach_if_useless()
            self._give_back_if_done()

    def pop_transaction(self) -> Any:
        transaction = super().pop_transaction()
        session = session_of(self)
        if isinstance(transaction, pw._manual) and session is not None and not session.keeps_connection:
            self.close()  # and undo what the block has left open
            self._give_back_if_done()
        return transaction

    def _run_commit_callbacks(self) -> None:
        try:
            super()._run_commit_callbacks()
        finally:
            self._give_back_if_done()

    def _clear_commit_callbacks(self) -> None:
        super()._clear_commit_callbacks()
        self._give_back_if_done()

    def savepoint(self) -> Any:
        return _Savepoint(self)

    @contextmanager
    def answering_within(self, seconds: float) -> Iterator[None]:
        """Give the server so long for each answer to this thread, whatever the configuration allows."""
        before = getattr(self._limits, "seconds", None)
        self._limits.seconds = seconds
        try:
            yield
        finally:
            self._limits.seconds = before

    def _within(self, seconds: float | None) -> AbstractContextManager[None]:
        """The watchdog for a wait of this thread's, or nothing where there is no limit."""
        limit = getattr(self._limits, "seconds", None) or seconds
        if limit is None or self._state.closed:
            return nullcontext()
        return WATCHDOG.watching(self._state.conn, limit + WATCHDOG_MARGIN_SECONDS)

    def _take(self) -> None:
        """See to it that there is a connection in hand: outside sessions, for the statement or transaction."""
        if not self._state.closed or not self.autoconnect:
            return
        if session_of(self) is None:
            Session(self, is_for_now=True).begin()
        try:
            self.connect()
        except BaseException:
            self._give_back_if_done()
            raise

    def _give_back_if_done(self) -> None:
        """Give the connection back that the session keeps for a statement or transaction only."""
        session = session_of(self)
        if session is None or session.keeps_connection or _is_busy(session.state):
            return
        if session.is_for_now:
            session.end()
        else:
            self.close()

    def _detach_if_useless(self) -> None:
        """Drop a dead or unwanted connection, so that the next statement outside the transaction gets a fresh one."""
        if self._state.closed or self.in_transaction():
            return
        connection = self._state.conn
        if is_lost(connection) or self.conn_key(connection) in self._unwanted:
            self.close()


def _is_busy(state: Any) -> bool:
    """Whether a transaction is open, or what has to be called after it is not called yet."""
    if state.closed:
        return False
    is_open = not is_lost(state.conn) and state.conn.get_transaction_status() != TRANSACTION_STATUS_IDLE
    return is_open or bool(state.transactions or state.commit_callbacks)
