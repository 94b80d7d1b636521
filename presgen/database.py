"""PostgresPool: a pooled PostgreSQL database that connects and checks outside its locks."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import peewee as pw
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS

from .config import DatabaseConfig
from .context import InUse, Session, is_coroutine, session_of
from .driver_errors import CONNECTION_LOST, is_lost, translated
from .errors import (
    CommitUnknown,
    DatabaseUnavailable,
    ReadOnlyServer,
    TransactionAborted,
)
from .fetched import FetchedCursor
from .observed import Observed
from .pool import WATCHDOG, WATCHDOG_MARGIN_SECONDS, Checkout
from .reading import WRITES, reading_on

# Neither idle nor one that a refused COPY leaves behind, which is none.
_IN_A_TRANSACTION: Final = (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR)
_COMMITS: Final = re.compile(r"\s*(COMMIT|END)\b", re.IGNORECASE)
_NO_LIMIT: Final = nullcontext()
_COMMIT_UNKNOWN: Final = "the connection was lost during COMMIT: read the rows again to learn whether it was applied"


class Savepoint(pw._savepoint):
    """Part of a transaction that can be undone alone."""

    def rollback(self, begin: bool = True) -> None:
        """Roll back; at the end of its block, a lost connection must not mask the error that led here."""
        try:
            super().rollback(begin)
        except DatabaseUnavailable:
            if begin:
                raise


class _Limits(threading.local):
    """What a thread has said of how long the server may take for its answers."""

    seconds: float | None = None


class PostgresPool(Observed, Checkout):
    """At most `pool_size + max_overflow` connections, of which `pool_size` stay open when idle.

    Waiting for a connection ends with PoolTimeout after `pool_timeout` seconds. A connection is checked
    when it is handed out: by its socket always, by a statement when it was idle for long. Opening and
    checking happen outside the pool's lock, so that a server that does not answer delays only who asked, and that
    one by its deadline: `statement_timeout` for statements and COMMIT, `connect_timeout` for the rest. Through
    PgBouncer the server does not know of `statement_timeout`: what takes longer is broken off as if the server were
    silent, and the server may go on with it.
    """

    lends_per_statement = True
    only_reads = "SELECT set_config('transaction_read_only', 'on', true); "

    def __init__(self, config: DatabaseConfig) -> None:
        super().__init__(config)
        self._limits = _Limits()
        self.observe(config)

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Check a connection out for this session or thread; raises PoolTimeout or DatabaseUnavailable."""
        # Peewee holds its database-wide lock here. The state belongs to the thread or session, so none is needed.
        with InUse(self):
            state = self._state
            if not state.closed:
                if reuse_if_open:
                    return False
                raise pw.OperationalError("Connection already opened.")
            connection = self._checkout()
            state.set_connection(connection)
            self.server_version = connection.server_version
            return True

    def close(self) -> bool:
        """Check the connection in hand in; an open transaction is an error, as in peewee."""
        with InUse(self):
            state = self._state
            if state.closed:
                return False
            connection = state.conn
            if state.transactions and not is_lost(connection):
                raise pw.OperationalError("Attempting to close database while transaction is open.")
            state.reset()
            self._close(connection)
            return True

    def connection(self) -> Any:
        """The driver's connection, which stays in hand until the end of the session, or until `close()`."""
        with InUse(self) as current:
            if current is not None and not current.is_for_now:
                current.keeps_connection = True
            self.connect(reuse_if_open=True)
            return self._state.conn

    def cursor(self, named_cursor: str | None = None) -> Any:
        """A cursor of the driver's; one that is not for our statements keeps its connection as connection() does."""
        current, state = session_of(self), self._state
        if current is not None and not current.is_used:
            self.connection()
        elif named_cursor is None and not state.closed:
            return state.conn.cursor()  # as peewee does, after it has looked at the session three times more
        return super().cursor(named_cursor)

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement; without a session or an open connection, on one that is in hand only for so long."""
        after = reading_on(self)
        return self.execute_here(sql, params) if after is None else self.read(sql, params, after=after)

    def execute_here(self, sql: str, params: Any) -> Any:
        self._begin_for_a_statement()
        with InUse(self) as current:
            try:
                # Here, so that waiting for a connection does not count as a slow statement.
                if self.autoconnect and self._state.closed:
                    self.connect()
                cursor = self._execute_in_hand(sql, params)
                return cursor if current is None or current.keeps_connection else FetchedCursor(cursor)
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
            may_be_stored = (commits_itself and WRITES.search(sql)) or _COMMITS.match(sql)
            if may_be_stored and is_lost(connection):
                raise CommitUnknown(_COMMIT_UNKNOWN) from None
            raise

    def _require_alive(self) -> None:
        """Raise DatabaseUnavailable when the connection in hand has ended: what was never sent is no unknown commit."""
        connection = self._state.conn
        if connection.has_something_to_read() and self._is_closed(connection):
            connection.close()
            self._detach_if_useless()
            raise DatabaseUnavailable(CONNECTION_LOST)

    def begin(self, isolation_level: str | int | None = None) -> None:
        self._begin_for_a_transaction()
        with InUse(self):
            try:
                self.connect(reuse_if_open=True)
                with self._within(self.config.connect_timeout):
                    translated(super().begin, isolation_level)
            except DatabaseUnavailable:
                self._detach_if_useless()
                raise
            finally:
                self._give_back_if_done()

    def commit(self) -> None:
        """Commit; raises CommitUnknown when the connection is lost before the server has answered.

        Raises TransactionAborted when a statement had failed and the error was swallowed, DatabaseUnavailable when the
        connection was lost then.
        """
        with InUse(self):
            try:
                state = self._state
                if not state.closed and is_lost(state.conn):
                    raise DatabaseUnavailable(CONNECTION_LOST)  # it is never sent
                if not state.closed and state.conn.get_transaction_status() == TRANSACTION_STATUS_INERROR:
                    raise TransactionAborted  # the server would answer with ROLLBACK, and no error
                self._send_commit()
            finally:
                self._give_back_if_done()

    def _send_commit(self) -> None:
        try:
            with self._within(self.config.statement_timeout):
                translated(super().commit)
        except DatabaseUnavailable:
            raise CommitUnknown(_COMMIT_UNKNOWN) from None

    def rollback(self) -> None:
        """Roll back; a lost connection has done so already, and must not mask the error that led here."""
        with InUse(self):
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

    def push_transaction(self, transaction: Any) -> None:
        self._begin_for_a_transaction()  # of which manual_commit() does not tell otherwise
        super().push_transaction(transaction)

    def pop_transaction(self) -> Any:
        transaction = super().pop_transaction()
        current = session_of(self)
        if isinstance(transaction, pw._manual) and current is not None and not current.keeps_connection:
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
        return Savepoint(self)

    def is_idle(self) -> bool:
        state = self._state
        return bool(state.closed or state.conn.get_transaction_status() == TRANSACTION_STATUS_IDLE)

    @contextmanager
    def answering_within(self, seconds: float) -> Iterator[None]:
        """Give the server so long for each answer to this thread, whatever the configuration allows."""
        before = self._limits.seconds
        self._limits.seconds = seconds
        try:
            yield
        finally:
            self._limits.seconds = before

    def _within(self, seconds: float | None) -> AbstractContextManager[None]:
        """The watchdog for a wait of this thread's, or nothing where there is no limit."""
        limit = self._limits.seconds or seconds
        if limit is None or self._state.closed:
            return _NO_LIMIT
        return WATCHDOG.watching(self._state.conn, limit + WATCHDOG_MARGIN_SECONDS)

    def _begin_for_a_statement(self) -> None:
        """Begin a session for a statement that has no connection in hand.

        Also inside a session that keeps none: other threads of its context may run statements at the same time.
        """
        current = session_of(self)
        if self._state.closed and (current is None or not current.keeps_connection) and self.autoconnect:
            Session(self, is_for_now=True).begin()

    def _begin_for_a_transaction(self) -> None:
        """Begin a session for a transaction outside of sessions; the thread's connection belongs to no coroutine."""
        if session_of(self) is None and self.autoconnect and (self._state.closed or is_coroutine()):
            Session(self, is_for_now=True).begin()

    def _give_back_if_done(self) -> None:
        """Give the connection back that the session keeps for a statement or transaction only."""
        current = session_of(self)
        if current is None or current.keeps_connection or _is_busy(current.state):
            return
        if current.is_for_now:
            current.end()
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
    is_open = not is_lost(state.conn) and state.conn.get_transaction_status() in _IN_A_TRANSACTION
    return is_open or bool(state.transactions or state.commit_callbacks)
