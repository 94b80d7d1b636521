"""Replica: one standby, what is known of how far it has come, and whether it may be asked."""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import peewee as pw

from ...acting import NOBODY, acting_as, acting_on
from ...database import PostgresPool
from ...errors import PresgenError

logger = logging.getLogger("database")

LOOK_SECONDS: Final = 2.0
"""How long a replica may take to say how far it has come."""
# NULL for a server that is no standby any more.
_REPLAYED: Final = "SELECT CASE WHEN pg_is_in_recovery() THEN (pg_last_wal_replay_lsn() - '0/0')::bigint END"


class Sightings:
    """Where the primary's log ended, and when that was seen; the last few of them, the oldest first."""

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self._seen: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def add(self, now: float, position: int) -> None:
        """Note where the log ended just now."""
        with self._lock:
            self._seen.append((now, position))
            while len(self._seen) > 1 and self._seen[1][0] < now - self._keep_seconds:
                self._seen.popleft()

    def lag(self, now: float, replayed: int) -> float:
        """For how many seconds, at least, the log has been further than a replica; 0 for one that has all of it."""
        with self._lock:
            missed = [at for at, position in self._seen if position > replayed]
        return now - missed[0] if missed else 0.0


class Replica:
    """A standby with a pool of its own. Its counters are for metrics, and may be a little behind."""

    def __init__(self, pool: PostgresPool, primary: PostgresPool) -> None:
        self.pool = pool
        self._primary = primary
        self.name = pool.config.safe_url
        self.reads = 0
        self.lag_seconds: float | None = None
        self.is_usable = False
        self._replayed = 0

    def execute(self, sql: str, params: Any) -> Any:
        """Run a statement as the primary's context would: with its user and actor."""
        with self._acting_alike():
            answer = self.pool.execute_sql(sql, params)
        self.reads += 1
        return answer

    def has_seen(self, position: int) -> bool:
        """Whether it has replayed the primary's log up to a position; asks it, unless that is known already."""
        return self._replayed >= position or (self._ask() or 0) >= position

    def look(self, now: float, sightings: Sightings, max_lag: float) -> None:
        """Learn how far it has come, and with that whether it may be asked; never raises for one that is down."""
        try:
            with self.pool.answering_within(LOOK_SECONDS):
                replayed = self._ask()
        except (PresgenError, pw.PeeweeException) as error:
            self.leave_out(str(error).partition("\n")[0])
            return
        if replayed is None:
            self.leave_out("it is no standby any more")
            return
        self.lag_seconds = sightings.lag(now, replayed)
        if self.lag_seconds > max_lag:
            self.leave_out(f"it is {self.lag_seconds:.1f} s behind")
        elif not self.is_usable:
            self.is_usable = True
            logger.info("The replica %s is in use", self.name)

    def leave_out(self, reason: str) -> None:
        """Ask it no more until a look finds it well."""
        if self.is_usable:
            logger.warning("The replica %s is left out: %s", self.name, reason)
        self.is_usable, self._replayed = False, 0

    def facts(self) -> dict[str, Any]:
        """What metrics() tells of it."""
        return {"usable": self.is_usable, "lag_seconds": self.lag_seconds, "reads": self.reads}

    def _ask(self) -> int | None:
        (replayed,) = self.pool.execute_sql(_REPLAYED).fetchone()
        if replayed is not None:
            self._replayed = replayed
        return None if replayed is None else int(replayed)

    def _acting_alike(self) -> AbstractContextManager[None]:
        acting = acting_on(self._primary)
        return nullcontext() if acting is NOBODY else acting_as(self.pool, acting.user_id, acting.actor)
