"""Mutants: presgen with one safeguard taken out, in this process; the checker has to notice each."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from presgen import PresentationJob
from presgen.models.fenced import DEFAULT_LEASE

from .checker import Kind

VARIABLE: Final = "PRESGEN_MUTANT"
"""The environment variable that names the mutant of a process."""

# Its methods are replaced.
_JOB: Final[Any] = PresentationJob
_ROW_LOCK: Final = " FOR UPDATE SKIP LOCKED"
_EXPIRED: Final = re.compile(r'("lease_expires_at") < (statement_timestamp\(\))')
# Long enough for another process to come between the two halves of what must be one step.
_GAP_SECONDS: Final = 0.01


def apply_mutant(database: Any) -> None:
    """Make this process the mutant that the environment names, if any."""
    name = os.environ.get(VARIABLE, "")
    if name in _BY_STATEMENT:
        _rewrite(database, _BY_STATEMENT[name])
    elif name in _BY_METHOD:
        _BY_METHOD[name]()
    elif name and name not in DATABASE_SETTINGS:
        raise LookupError(f"there is no mutant {name}")


def _rewrite(database: Any, change: Callable[[str], str]) -> None:
    execute_sql = database.execute_sql
    database.execute_sql = lambda sql, params=None: execute_sql(change(sql), params)


def _without_row_lock(sql: str) -> str:
    return sql.replace(_ROW_LOCK, "")


def _with_lenient_lease(sql: str) -> str:
    return _EXPIRED.sub(r"\1 <= \2", sql)


def _without_fence() -> None:
    _JOB.fence = lambda job: {_JOB.id: job.id}


def _claim_without_recheck() -> None:
    def claim(worker: str, limit: int = 1, *, lease: float = DEFAULT_LEASE.total_seconds()) -> list[Any]:
        job = _JOB
        job.reap()
        due = job.select(job.id).where(job.status == "pending", job.run_at <= job.server_time())
        ids = [row.id for row in due.order_by(job.run_at, job.id).limit(limit)]
        if not ids:
            return []
        time.sleep(_GAP_SECONDS)
        taken = {
            job.status: "processing_slides",
            job.worker: worker,
            job.attempt: job.attempt + 1,
            job.lease_expires_at: job.server_time(plus_seconds=lease),
            job.started_at: job.server_time(),
        }
        jobs = list(job.update(taken).where(job.id.in_(ids)).returning(job).execute())
        for claimed in jobs:
            claimed.lease_seconds = lease
        return jobs

    _JOB.claim = claim


def _rescue_without_attempt() -> None:
    reap = _JOB.reap

    def uncounted() -> int:
        database = _JOB._meta.database
        execute_sql = database.execute_sql
        forgotten = '"attempt" = "presentation_jobs"."attempt" - 1, "status" = CASE'
        database.execute_sql = lambda sql, params=None: execute_sql(
            sql.replace('"status" = CASE', forgotten, 1), params
        )
        try:
            return int(reap())
        finally:
            database.execute_sql = execute_sql

    _JOB.reap = uncounted


_BY_STATEMENT: Final[Mapping[str, Callable[[str], str]]] = {
    "no_row_lock": _without_row_lock,
    "lease_not_strict": _with_lenient_lease,
}
_BY_METHOD: Final[Mapping[str, Callable[[], None]]] = {
    "no_fence": _without_fence,
    "claim_without_recheck": _claim_without_recheck,
    "rescue_without_attempt": _rescue_without_attempt,
}
DATABASE_SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {"async_commit": {"synchronous_commit": "off"}}
"""Mutants of the server, which its database's settings make."""

MUTANTS: Final[Mapping[str, Kind]] = {
    "no_fence": Kind.ACKNOWLEDGED_BUT_LOST,
    "no_row_lock": Kind.LIVE_LEASE,
    "async_commit": Kind.ACKNOWLEDGED_BUT_LOST,
    "lease_not_strict": Kind.LIVE_LEASE,
    "claim_without_recheck": Kind.LIVE_LEASE,
    "rescue_without_attempt": Kind.HELD_BY_TWO,
}
"""What the checker has to say of each."""
