"""Replicas: which replica answers a read, and the threads that watch how they are."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import peewee as pw

from ...database import PostgresPool
from ...errors import (
    CommitUnknown,
    DatabaseBusy,
    DatabaseUnavailable,
    PoolTimeout,
    PresgenError,
    ReadOnlyBlock,
    ReadOnlyServer,
)
from .replica import LOOK_SECONDS, Replica, Sightings

EVERY_SECONDS: Final = 0.5
"""How often the replicas are looked at."""
# Of a replica alone: the same read may succeed elsewhere. DatabaseBusy is also a conflict with what it replays.
_ITS_OWN: Final = (DatabaseUnavailable, DatabaseBusy, PoolTimeout, CommitUnknown)
_FLUSHED: Final = "SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint"


def flushed(primary: PostgresPool) -> int:
    """Where the primary's log ends on its disk, as a number of bytes: behind everything that is committed."""
    (position,) = primary.execute_sql(_FLUSHED).fetchone()
    return int(position)


class Replicas:
    """The replicas of one primary, watched from the first read on, by a thread for each, until close()."""

    def __init__(self, primary: PostgresPool, pools: Sequence[PostgresPool], *, max_lag: float) -> None:
        self._primary = primary
        self._max_lag = max_lag
        self._replicas = [Replica(pool, primary) for pool in pools]
        self._sightings = Sightings(keep_seconds=2 * max_lag)
        self._reads_of_primary = 0
        self._over = threading.Event()
        self._starting = threading.Lock()
        self._watchers: list[threading.Thread] = []
        self._watched_by: int | None = None

    def read(self, sql: str, params: Any, *, after: int) -> Any:
        """The answer of a random replica that has seen the position `after`; None when there is none: ask the primary.

        Raises ReadOnlyBlock for a SELECT whose functions write, and what the statement itself deserves.
        """
        self._watch()
        for replica in random.sample(self._replicas, len(self._replicas)):
            if not replica.is_usable:
                continue
            try:
                if replica.has_seen(after):
                    return replica.execute(sql, params)
            except ReadOnlyServer:
                raise ReadOnlyBlock from None
            except _ITS_OWN as error:
                if not isinstance(error, (DatabaseBusy, PoolTimeout)):
                    replica.leave_out(str(error))
        self._reads_of_primary += 1
        return None

    def stats(self) -> dict[str, Any]:
        """For metrics(): reads that the primary has answered, and of each replica `usable`, `lag_seconds`, `reads`."""
        return {"reads_of_primary": self._reads_of_primary} | self.look()

    def look(self) -> dict[str, Any]:
        """What is known of each replica by its name, from the first look on."""
        self._watch()
        return {each.name: each.facts() for each in self._replicas}

    def close(self) -> None:
        """Watch no more, and close the replicas' connections."""
        self._over.set()
        for watcher in self._watchers:  # which would open connections of their own again
            watcher.join(2 * LOOK_SECONDS)
        for replica in self._replicas:
            replica.pool.close_all()

    def _watch(self) -> None:
        """Start the threads, in this process, and wait for their first look."""
        if self._watched_by == os.getpid():
            return
        with self._starting:
            if self._watched_by == os.getpid():
                return
            looks = [threading.Event() for _ in self._replicas]
            for replica, looked in zip(self._replicas, looks, strict=True):
                watcher = threading.Thread(
                    target=self._keep_looking,
                    args=(replica, looked),
                    name=f"presgen watches {replica.name}",
                    daemon=True,
                )
                watcher.start()
                self._watchers.append(watcher)
            deadline = time.monotonic() + LOOK_SECONDS
            for looked in looks:
                looked.wait(deadline - time.monotonic())
            self._watched_by = os.getpid()

    def _keep_looking(self, replica: Replica, looked: threading.Event) -> None:
        while not self._over.is_set():
            # Without a primary nothing is written that could be missed.
            with suppress(PresgenError, pw.PeeweeException), self._primary.answering_within(LOOK_SECONDS):
                self._sightings.add(time.monotonic(), flushed(self._primary))
            replica.look(time.monotonic(), self._sightings, self._max_lag)
            looked.set()
            self._over.wait(EVERY_SECONDS)
