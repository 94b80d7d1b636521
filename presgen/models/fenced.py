"""Fenced: writes of a worker that happen only while the job is still in its hand."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, Final

import peewee as pw

from ..context import session
from ..errors import JobCancelled, LeaseLost
from ..status import JobStatus

logger = logging.getLogger("database")

DEFAULT_LEASE: Final = timedelta(seconds=60)


def log_job_status_change(job_id: int, old_status: JobStatus, new_status: JobStatus) -> None:
    """Log on `database` that a job changed its status."""
    if old_status is not new_status:
        logger.info("Job %s status changed: %s -> %s", job_id, old_status, new_status)


def in_seconds(duration: timedelta | float) -> float:
    """A duration in seconds; plain numbers are seconds already."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


class Fenced:
    """The part of a job that guards a worker's writes by attempt, worker and status.

    `attempt` is the fencing token: every claim raises it, so a worker that slept through its lease cannot
    write over the next one, even under the same name.
    """

    lease_seconds: float = DEFAULT_LEASE.total_seconds()
    """How long each sign of life keeps the lease, as claimed."""

    def write_fenced(self: Any, row: dict[Any, Any], *, cancelled: bool = False) -> None:
        """Write the row in one statement and show it on the instance.

        Raises LeaseLost or JobCancelled, and then has written nothing. `cancelled` lets a write through that
        ends a job whose cancellation was asked for.
        """
        cls = type(self)
        before = self.status
        asked = self.fence() & (cls.status == before)
        if not cancelled:
            asked &= cls.cancel_requested_at.is_null()
        row = cls.touched(row)
        computed = [field for field, value in row.items() if isinstance(value, pw.Node)]
        query = pw.ModelUpdate(cls, row).where(asked).returning(cls.id, *computed).tuples()
        with session(self._meta.database):
            written = list(query.execute())
            if not written:
                raise self.why_not_written()
        self.take_over({**row, **dict(zip(computed, written[0][1:], strict=True))})
        log_job_status_change(self.id, before, self.status)

    def fence(self: Any) -> Any:
        """The condition under which the row is still in this worker's hand."""
        cls = type(self)
        holder = cls.worker.is_null() if self.worker is None else cls.worker == self.worker
        return (cls.id == self.id) & (cls.attempt == self.attempt) & holder

    def why_not_written(self: Any) -> LeaseLost | JobCancelled:
        """The error that explains why the fence let nothing through."""
        cls = type(self)
        now = cls.get_or_none(cls.id == self.id)
        if now is None:
            return LeaseLost(f"job {self.id} was deleted; drop its work")
        if now.status is JobStatus.CANCELLED or now.cancel_requested_at is not None:
            return JobCancelled(f"job {self.id} was cancelled; drop its work")
        return LeaseLost(
            f"job {self.id} is {now.status} at attempt {now.attempt} of {now.worker or 'nobody'}, "
            f"no longer {self.status} at attempt {self.attempt} of {self.worker or 'nobody'}; drop its work"
        )
