"""One migrator at a time: the lock that migrators and installers share."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ..clock import is_sqlite
from ..context import session
from ..errors import DatabaseBusy, MigrationError

LOCK_TIMEOUT: Final = "2s"
"""How long a migration waits for a table's lock; whoever comes after it waits behind it."""
LOCK_POLL_SECONDS: Final = 0.1

# The key of the advisory lock: the first eight bytes of "presgen" padded, read as a number.
LOCK_KEY: Final = int.from_bytes(b"presgen\0", "big")

logger = logging.getLogger("database.migrations")


@contextmanager
def exclusive(database: Any) -> Iterator[None]:
    """Hold a connection, and keep other migrators out; on SQLite and through PgBouncer in a transaction."""
    with session(database):
        if is_sqlite(database) or is_behind_pgbouncer(database):
            with database.atomic():  # one transaction, from the first look to the last step
                if is_behind_pgbouncer(database):
                    take_turn(database)
                yield
            return
        keep_others_out(database)
        try:
            yield
        finally:
            database.execute_sql("SELECT pg_advisory_unlock(%s)", (LOCK_KEY,))


def take_turn(database: Any) -> None:
    """Wait until no other migrator or installer is at work, and keep others out until the transaction ends."""
    _take_advisory_lock(database, "pg_try_advisory_xact_lock")


def keep_others_out(database: Any) -> None:
    """Wait until no other migrator is at work, and keep others out while the open connection lasts."""
    if is_behind_pgbouncer(database):
        raise MigrationError("PgBouncer would lose pw_migrate's lock: run `presgen migrate`, or use the server itself")
    if not is_sqlite(database):
        _take_advisory_lock(database, "pg_try_advisory_lock")
        return
    while not _has_file_alone(database):
        # Whoever has the file open shares it, so two that wait would wait for each other.
        database.close()
        time.sleep(random.uniform(0.1, 2) * LOCK_POLL_SECONDS)
        database.connect()


def is_behind_pgbouncer(database: Any) -> bool:
    """Whether the connection is one of PgBouncer's, which keeps nothing from one transaction to the next."""
    return not is_sqlite(database) and bool(database.config.pgbouncer)


def _take_advisory_lock(database: Any, function: str) -> None:
    # Asked for again and again: while libpq waits for a lock, no signal gets through to Python; and a statement
    # that waits has a snapshot, whose end CREATE INDEX CONCURRENTLY waits for.
    try_lock, waiting = f"SELECT {function}(%s)", False
    while not database.execute_sql(try_lock, (LOCK_KEY,)).fetchone()[0]:
        if not waiting:
            logger.warning("Another migrator is at work; waiting for it")
            waiting = True
        time.sleep(LOCK_POLL_SECONDS)


def _has_file_alone(database: Any) -> bool:
    (patience,) = database.execute_sql("PRAGMA busy_timeout").fetchone()
    try:
        database.execute_sql("PRAGMA busy_timeout = 50")
        database.execute_sql("PRAGMA locking_mode = EXCLUSIVE")
        with database.atomic():
            return True
    except DatabaseBusy:
        return False
    finally:
        database.execute_sql(f"PRAGMA busy_timeout = {patience}")
