"""run_in_transaction(): what was committed is not repeated, and what was not is, whatever becomes of the reply."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from itertools import count
from typing import Any, Final, TypeVar

from psycopg2.extensions import TRANSACTION_STATUS_INERROR

from .clock import is_sqlite
from .context import session
from .driver_errors import CONNECTION_LOST
from .errors import CommitUnknown, DatabaseUnavailable, PoolTimeout, PresgenError

logger = logging.getLogger("database")
Result = TypeVar("Result")

_FIRST_RETRY_SECONDS: Final = 0.05
# How long a lost COMMIT is asked after: a server that crashed recovers meanwhile.
_VERIFY_SECONDS: Final = 30.0
# None while nothing was written: such a transaction may be repeated.
_OWN_ID: Final = "SELECT pg_current_xact_id_if_assigned()::text"
_STATUS: Final = "SELECT pg_xact_status(%s::xid8)"
_ASK_EVERY_SECONDS: Final = 0.1


def run_in_transaction(database: Any, work: Callable[[], Result], *, retries: int, deadline: float) -> Result:
    """Run `work` in a transaction, at most `retries` times again; no repeat begins after `deadline` (monotonic)."""
    for attempt in count():
        transaction = _Verifiable(database)
        try:
            with session(database), database.atomic():
                database.after_commit(transaction.has_committed)
                result = work()
                transaction.note()
            return result
        except PresgenError as error:
            if transaction.is_committed or (isinstance(error, CommitUnknown) and not transaction.is_noted):
                raise  # of what is called after the commit, or of another database's
            failure = error
        if isinstance(failure, CommitUnknown):
            if transaction.was_applied(patience_seconds=min(_VERIFY_SECONDS, deadline - time.monotonic())):
                transaction.call_back()
                return result
            failure = DatabaseUnavailable(CONNECTION_LOST)
        pause = _FIRST_RETRY_SECONDS * 2**attempt * random.uniform(0.5, 1.5)
        if attempt == retries or not failure.retryable or time.monotonic() + pause > deadline:
            raise failure
        logger.info("Transaction failed (%s); again in %.2f s", type(failure).__name__, pause)
        time.sleep(pause)
    raise AssertionError("unreachable")


class _Verifiable:
    """Remembers the id of a transaction before its COMMIT, to ask PostgreSQL about it when the reply is lost."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self._id: str | None = None
        self._callbacks: list[Callable[[], Any]] = []
        self.is_noted = self.is_committed = False

    def has_committed(self) -> None:
        """To be called after the commit, before all that `work` wants to be called then."""
        self.is_committed = True

    def call_back(self) -> None:
        """Call what was to be called after the commit, which peewee has forgotten when the reply was lost."""
        for callback in self._callbacks:
            callback()

    def note(self) -> None:
        """Take the id of the transaction in hand, as its last statement; one round trip, none on SQLite."""
        self._callbacks = list(self._database._state.commit_callbacks)
        self.is_noted = True
        if is_sqlite(self._database):
            return
        if self._database.connection().get_transaction_status() != TRANSACTION_STATUS_INERROR:  # commit() tells of that
            (self._id,) = self._database.execute_sql(_OWN_ID).fetchone()

    def was_applied(self, *, patience_seconds: float) -> bool:
        """Whether the transaction was committed; raises CommitUnknown when nobody can tell in that time."""
        deadline = time.monotonic() + patience_seconds
        while self._id is not None:
            try:
                with session(self._database):
                    (status,) = self._database.execute_sql(_STATUS, (self._id,)).fetchone()
                if status != "in progress":
                    return bool(status == "committed")
            except (DatabaseUnavailable, PoolTimeout):
                pass  # asked again below, as long as there is time
            if time.monotonic() > deadline:
                raise CommitUnknown(
                    f"the connection was lost during COMMIT of transaction {self._id}: ask pg_xact_status() about it"
                )
            time.sleep(_ASK_EVERY_SECONDS)
        return False
