"""Changes of the schema: on a connection of their own, and tried again while others hold a lock."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from ..clock import is_sqlite
from ..errors import DatabaseBusy, MigrationError
from .database import MigrationDatabase
from .turns import LOCK_TIMEOUT, exclusive

LOCK_PATIENCE_SECONDS: Final = 120.0
"""For how long a step that did not get a lock is tried again."""
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0

Result = TypeVar("Result")
logger = logging.getLogger("database.migrations")


def set_apart(database: Any) -> Any:
    """On PostgreSQL a connection apart; SQLite has one writer. Raises MigrationError inside a transaction."""
    if is_sqlite(database):
        return database
    if database.in_transaction():
        raise MigrationError("a migration has transactions of its own: run it outside of yours")
    return MigrationDatabase(database.config)


@contextmanager
def at_work(database: Any) -> Iterator[Any]:
    """The database set apart, with other migrators and installers kept out; raises MigrationError as set_apart()."""
    apart = set_apart(database)
    try:
        with exclusive(apart):
            yield apart
    finally:
        if apart is not database:
            apart.close_all()


def patiently(database: Any, name: str, step: Callable[[], Result]) -> Result:
    """The step's result; it is tried again while others hold a lock that it needs. Raises DatabaseBusy in the end."""
    deadline, pause = time.monotonic() + LOCK_PATIENCE_SECONDS, _PAUSE_SECONDS
    while True:
        is_last = time.monotonic() > deadline
        try:
            if isinstance(database, MigrationDatabase):
                database.has_committed_half = False
                database.set_limits()
            return step()
        except DatabaseBusy:
            if is_last or database.in_transaction():
                raise
        logger.warning("%s did not get a lock within %s, and is tried again", name, LOCK_TIMEOUT)
        # Ever longer, for who holds the lock stays, and at each try others wait behind it.
        time.sleep(random.uniform(0.5, 1.5) * pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
