"""notify: workers hear at once of jobs that have become due, and not at their next poll.

PostgreSQL's LISTEN/NOTIFY. The notification is a hint and carries nothing: whoever misses it still polls.
"""

from __future__ import annotations

import logging
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import Any, Final

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ

from ..clock import is_sqlite
from ..config import DatabaseConfig
from ..driver_errors import connect_failure
from ..errors import ConfigurationError

logger = logging.getLogger("presgen.worker")

COST: Final = "jobs are added one commit at a time: a third of the rate with 8 writers (docs/operations.md)"
CHANGES: Final = ("notify_*",)
CHANNEL: Final = "presgen_jobs_due"
_FIRST_PAUSE_SECONDS: Final = 0.1
_PAUSE_MAX_SECONDS: Final = 30.0
# Only a name server that does not answer keeps the thread longer; it ends by itself then.
_END_SECONDS: Final = 1.0

_INSTALL: Final = (
    # Equal notifications of one transaction are sent once, at its COMMIT.
    f"""
    CREATE OR REPLACE FUNCTION presgen_notify() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_catalog.pg_notify('{CHANNEL}', '');
        RETURN NULL;
    END $$
    """,
    # By statement, whatever its rows: a call for each row of a COPY would cost more than a wake-up for nothing.
    """
    CREATE OR REPLACE TRIGGER notify_added AFTER INSERT ON presentation_jobs
        FOR EACH STATEMENT EXECUTE FUNCTION presgen_notify()
    """,
    # Named columns keep it away from heartbeats. A job that waits for its backoff wakes nobody.
    """
    CREATE OR REPLACE TRIGGER notify_due AFTER UPDATE OF status, run_at, deleted_at ON presentation_jobs
        FOR EACH ROW
        WHEN (NEW.status = 'pending' AND NEW.run_at <= statement_timestamp() AND NEW.deleted_at IS NULL
            AND (OLD.status <> 'pending' OR OLD.run_at > statement_timestamp() OR OLD.deleted_at IS NOT NULL))
        EXECUTE FUNCTION presgen_notify()
    """,
)
# With the triggers, wherever they are.
_UNINSTALL: Final = "DROP FUNCTION IF EXISTS presgen_notify() CASCADE"

# Counts the triggers on the table that the search path finds.
_TRIGGERS: Final = """
SELECT count(*)
FROM pg_trigger
WHERE tgrelid = to_regclass('presentation_jobs') AND tgname IN ('notify_added', 'notify_due')
"""


def install(database: Any) -> None:
    """Let the database notify whoever listens when jobs are added and when they become due again."""
    if is_sqlite(database):
        raise ConfigurationError("notify needs PostgreSQL; on SQLite workers poll")
    for statement in _INSTALL:
        database.execute_sql(statement)


def uninstall(database: Any) -> None:
    """Send no more notifications; workers that listen poll from now on."""
    if not is_sqlite(database):
        database.execute_sql(_UNINSTALL)


def is_installed(database: Any) -> bool:
    """Whether both triggers are there."""
    if is_sqlite(database):
        return False
    (triggers,) = database.execute_sql(_TRIGGERS).fetchone()
    return bool(triggers == 2)


@contextmanager
def listen(config: DatabaseConfig, wake: Callable[[], None]) -> Iterator[None]:
    """Call `wake` from a thread when jobs may have become due, for as long as the block lasts.

    Many notifications may be one call; so is each new connection, since something may have been missed before it.
    The thread has a connection of its own outside the pool, and makes a new one after an outage; it never raises
    into the block. PgBouncer's transaction mode passes no notifications.
    """
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=_Listener(config, wake, theirs).run, name="presgen-wake-ups", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ours.close()  # which the thread sees as the end of its own side
        thread.join(_END_SECONDS)


class _Ended(Exception):
    """The block is over."""


class _Listener:
    """The thread's side. Its connection is asynchronous, so that the end of the block interrupts every wait."""

    def __init__(self, config: DatabaseConfig, wake: Callable[[], None], until: socket.socket) -> None:
        self._config = config
        self._wake = wake
        self._until = until
        self._is_out = False
        self._failures = count()

    def run(self) -> None:
        with self._until:
            try:
                while True:
                    self._pass_on()
                    self._wait(seconds=self._pause())
            except _Ended:
                return

    def _pass_on(self) -> None:
        """Listen and wake until the connection is lost, or cannot be made."""
        is_listening = False
        try:
            with closing(psycopg2.connect(**self._config.connect_parameters(), async_=True)) as connection:
                deadline = time.monotonic() + self._config.connect_timeout
                self._complete(connection, deadline)
                cursor = connection.cursor()  # which the connection itself refers to weakly
                # The server may end sessions that are idle for long, which a listener is by its nature.
                cursor.execute(f"SET idle_session_timeout = 0; LISTEN {CHANNEL}")
                self._complete(connection, deadline)
                is_listening = True
                self._connected()
                while True:
                    self._wake()
                    connection.notifies.clear()
                    while not connection.notifies:
                        self._wait(connection, select.POLLIN)
                        connection.poll()
        except (psycopg2.Error, OSError) as error:
            where = self._config.safe_url
            lost = f"the connection to {where} was lost"
            self._disconnected(lost if is_listening else connect_failure(error, where))

    def _complete(self, connection: Any, deadline: float) -> None:
        """Wait for the server's answer; raises OperationalError when it takes too long."""
        while (state := connection.poll()) != POLL_OK:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise psycopg2.OperationalError("timeout expired")
            self._wait(connection, select.POLLIN if state == POLL_READ else select.POLLOUT, seconds=remaining)

    def _wait(self, connection: Any = None, events: int = 0, *, seconds: float | None = None) -> None:
        """Wait for the connection's socket, or for so long; raises _Ended at the end of the block."""
        poller = select.poll()
        poller.register(self._until, select.POLLIN)
        if connection is not None:
            poller.register(connection.fileno(), events)
        ready = poller.poll(None if seconds is None else seconds * 1000)
        if any(descriptor == self._until.fileno() for descriptor, _ in ready):
            raise _Ended

    def _connected(self) -> None:
        if self._is_out:
            logger.info("wake-ups are back")
        self._is_out, self._failures = False, count()

    def _disconnected(self, why: object) -> None:
        """Say so once for each outage; workers poll meanwhile."""
        if not self._is_out:
            logger.warning("no wake-ups, polling instead: %s", why)
        self._is_out = True

    def _pause(self) -> float:
        """Growing pauses; jitter keeps the workers of a server that comes back from connecting together."""
        doublings = min(next(self._failures), 20)
        return min(_PAUSE_MAX_SECONDS, _FIRST_PAUSE_SECONDS * float(2**doublings)) * random.uniform(0.5, 1.5)
