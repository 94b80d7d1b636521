"""Checkout: how connections get into a thread's hand and back, without a slot lost."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import traceback
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import peewee as pw
import psycopg2
from playhouse.pool import PooledPostgresqlDatabase
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, register_type

from .config import DatabaseConfig
from .context import Contextual, Session, session_of
from .driver_errors import connect_failure, is_lost
from .errors import PoolTimeout
from .prepared import PreparingConnection
from .timestamps import TIMESTAMPTZ
from .watchdog import Watchdog, break_off

logger = logging.getLogger("database")

# A quiet half-open connection shows nothing on its socket; after this long it is asked.
IDLE_SECONDS_BEFORE_PING: Final = 30.0
# The watchdog is the second line: a server that is alive ends a statement by itself.
WATCHDOG_MARGIN_SECONDS: Final = 0.3

_LOOK_FOR_THE_DEAD_SECONDS: Final = 0.5
# What stands between a checkout and the code that made it.
_LIBRARIES: Final = (pw.__file__, contextlib.__file__, os.path.join(os.path.dirname(__file__), ""))

WATCHDOG: Final = Watchdog()
NO_CONNECTIONS: Final[Mapping[str, float]] = dict.fromkeys(
    ("in_use", "idle", "overflow", "waiting", "max_connections", "created", "recycled", "dead", "timeouts"), 0
) | {"waited_seconds": 0.0}
"""What pool_stats() gives where nothing has happened."""
_POOLS: Final[weakref.WeakSet[Checkout]] = weakref.WeakSet()


@dataclass(slots=True)
class CheckedOut:
    """A connection in hand; the moments are those of time.time()."""

    timestamp: float
    connection: Any
    checked_out: float
    holder: threading.Thread | weakref.ref[Session]
    """The session that has it, which threads may hand on, or else the thread."""
    place: str | None = None
    """Where it was checked out, with `pool_leak_seconds`."""

    def is_held(self) -> bool:
        """Whether anybody is left to give it back."""
        return self.holder.is_alive() if isinstance(self.holder, threading.Thread) else self.holder() is not None


class Checkout(Contextual, PooledPostgresqlDatabase):
    """The part of the pool that counts slots, opens connections and checks them, outside its lock."""

    config: DatabaseConfig

    def __init__(self, config: DatabaseConfig) -> None:
        self.config = config
        self.may_prepare = not config.pgbouncer and config.pool_reset is None
        self._opening = self._waiting = 0
        self._counts = dict.fromkeys(("created", "recycled", "dead", "timeouts"), 0)
        self._waited_seconds = 0.0
        self._unwanted: set[Any] = set()
        """The keys of connections that are not to be used again, when they come back."""
        super().__init__(
            config.database,
            max_connections=config.pool_size + config.max_overflow,
            stale_timeout=config.pool_recycle,
            timeout=config.pool_timeout,
        )
        _POOLS.add(self)

    def pool_stats(self) -> dict[str, float]:
        """Connections now: `in_use`, `idle`, `overflow` (beyond pool_size), `waiting` threads, `max_connections`.

        Since the start: `created`, `recycled` (too old), `dead` (found so), `timeouts`, and `waited_seconds` in all.
        """
        with self._pool_available:
            self._reclaim()
            in_use = len(self._in_use) + self._opening
            idle = len(self._connections)
            return {
                "in_use": in_use,
                "idle": idle,
                "overflow": max(0, in_use + idle - self.config.pool_size),
                "waiting": self._waiting,
                "max_connections": self._max_connections,
                **self._counts,
                "waited_seconds": self._waited_seconds,
            }

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
            break_off(connection)  # closing would wait for its statement
        for connection in idle + in_use:
            self._close_raw(connection)

    def abandon(self) -> None:
        """Forget every connection without a word to the server: in a forked child they are the parent's."""
        self._pool_lock = threading.RLock()
        self._pool_available = threading.Condition(self._pool_lock)
        self._connections: list[Any] = []
        self._in_use: dict[Any, CheckedOut] = {}
        self._opening = self._waiting = 0
        self._of_thread.reset()
        self._state.reset()

    def _checkout(self) -> Any:
        deadline = time.monotonic() + self.config.pool_timeout
        while True:
            idle = self._idle_or_slot(deadline)
            if idle is None:
                return self._open()
            created, idle_since, connection = idle
            reason = self._why_unusable(connection, created=created, idle_since=idle_since)
            if reason is None:
                return connection
            self._counts[reason] += 1
            self._discard(connection)

    def _idle_or_slot(self, deadline: float) -> tuple[float, float, Any] | None:
        """An idle connection, marked as in use; None when the caller may open one in its place."""
        with self._pool_available:
            self._warn_of_leaks()
            while True:
                if self._connections:
                    # The connection used last comes out first; what is surplus grows old and is recycled.
                    idle: tuple[float, float, Any] = self._connections.pop()
                    self._mark_in_use(idle[2], created=idle[0])
                    return idle
                if len(self._in_use) + self._opening < self._max_connections:
                    self._opening += 1
                    return None
                if not self._reclaim():
                    self._wait_for_a_slot(deadline)

    def _wait_for_a_slot(self, deadline: float) -> None:
        began = time.monotonic()
        if began >= deadline:
            self._counts["timeouts"] += 1
            raise PoolTimeout(
                f"all {self._max_connections} connections stayed in use for {self.config.pool_timeout:g} s; "
                "return connections sooner, or raise DATABASE_POOL_SIZE"
            )
        self._waiting += 1
        try:
            # Not for ever at once: a thread may die without giving its connection back.
            self._pool_available.wait(min(deadline - began, _LOOK_FOR_THE_DEAD_SECONDS))
        finally:
            self._waiting -= 1
            self._waited_seconds += time.monotonic() - began

    def _reclaim(self) -> int:
        """Take back what threads and contexts that have ended still hold; gives the number. Needs the lock."""
        orphans = [(key, held) for key, held in self._in_use.items() if not held.is_held()]
        for key, held in orphans:
            del self._in_use[key]
            who = f"Thread {held.holder.name}" if isinstance(held.holder, threading.Thread) else "A context"
            logger.warning("%s ended with a connection in hand; it is closed", who)
            threading.Thread(target=self._close_raw, args=(held.connection,), daemon=True).start()
        return len(orphans)

    def _warn_of_leaks(self) -> None:
        limit = self.config.pool_leak_seconds
        if limit is None:
            return
        for key, held in self._in_use.items():
            if held.place is not None and time.time() - held.checked_out > limit:
                logger.warning("A connection has been in use for more than %g s; checked out at\n%s", limit, held.place)
                self._in_use[key] = replace(held, place=None)

    def _open(self) -> Any:
        connection = None
        try:
            connection = psycopg2.connect(**self.config.connect_parameters(), connection_factory=PreparingConnection)
            connection.autocommit, connection.database = True, self
            register_type(TIMESTAMPTZ, connection)
            return connection
        except psycopg2.Error as error:
            failure = connect_failure(error, self.config.safe_url)
        finally:
            with self._pool_available:
                self._opening -= 1
                if connection is None:
                    self._pool_available.notify()
                else:
                    self._counts["created"] += 1
                    self._mark_in_use(connection, created=time.time())
        raise failure  # out here, where the driver's error, whose frames hold the password, is not its context

    def _mark_in_use(self, connection: Any, *, created: float) -> None:
        place = None if self.config.pool_leak_seconds is None else _caller()
        session = session_of(self)
        holder = threading.current_thread() if session is None else weakref.ref(session)
        held = CheckedOut(created, connection, time.time(), holder, place)
        self._in_use[self.conn_key(connection)] = held

    def _why_unusable(self, connection: Any, *, created: float, idle_since: float) -> str | None:
        if self._is_stale(created):
            return "recycled"
        if is_lost(connection) or connection.has_something_to_read():
            return "dead"
        if time.time() - idle_since < IDLE_SECONDS_BEFORE_PING:
            return None
        with WATCHDOG.watching(connection, self.config.connect_timeout):
            return "dead" if self._is_closed(connection) else None

    def _discard(self, connection: Any) -> None:
        """Close a connection for good and give its slot back."""
        with self._pool_available:
            self._in_use.pop(self.conn_key(connection), None)
            self._pool_available.notify()
        self._close_raw(connection)

    def _close(self, connection: Any, close_conn: bool = False) -> None:
        """Check a connection in, undoing outside the lock what was left open."""
        key = self.conn_key(connection)
        held = self._in_use.get(key)
        close_conn = close_conn or key in self._unwanted
        self._unwanted.discard(key)
        is_usable = not (close_conn or is_lost(connection) or connection.has_foreign_settings)
        if held is None or not is_usable or not self._is_clean(connection):
            self._discard(connection)
            return
        with self._pool_available:
            if len(self._connections) < self.config.pool_size:
                del self._in_use[key]
                self._connections.append((held.timestamp, time.time(), connection))
                self._pool_available.notify()
                return
        self._discard(connection)

    def _is_clean(self, connection: Any) -> bool:
        """Roll back, and with `pool_reset` forget the session's state; tells whether that worked."""
        if self.config.pool_reset is None and connection.get_transaction_status() == TRANSACTION_STATUS_IDLE:
            return True  # without asking the server
        with WATCHDOG.watching(connection, self.config.connect_timeout):
            if not self._can_reuse(connection):
                return False
            if self.config.pool_reset is None:
                return True
            with contextlib.suppress(psycopg2.Error):
                connection.cursor().execute("DISCARD ALL")
                return True
        return False


def _caller() -> str:
    """The innermost lines of the stack that are not the libraries'."""
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(_LIBRARIES)]
    return "".join(traceback.format_list(frames[-5:]))


def _abandon_all() -> None:
    WATCHDOG.forget()
    for pool in tuple(_POOLS):
        pool.abandon()


os.register_at_fork(after_in_child=_abandon_all)
