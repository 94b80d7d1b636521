"""Verifiable: a transaction that PostgreSQL can be asked about when the reply to its COMMIT is lost."""

from __future__ import annotations

import time
from typing import Any, Final

from psycopg2.extensions import TRANSACTION_STATUS_INERROR

from .clock import is_sqlite
from .context import session
from .errors import CommitUnknown, DatabaseUnavailable, PoolTimeout

# None while nothing was written: such a transaction may be repeated.
_OWN_ID: Final = "SELECT pg_current_xact_id_if_assigned()::text"
_STATUS: Final = "SELECT pg_xact_status(%s::xid8)"
_ASK_EVERY_SECONDS: Final = 0.1


class Verifiable:
    """Remembers the id of a transaction before its COMMIT."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self._id: str | None = None

    def note(self) -> None:
        """Take the id of this thread's transaction, as its last statement; one round trip, none on SQLite."""
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
