"""Controllable: what the web application and the operator do with a job, whoever has it in hand."""

from __future__ import annotations

from typing import Any

import peewee as pw

from ..context import session
from ..errors import InvalidTransition
from ..status import UNFINISHED, JobStatus
from .fenced import log_job_status_change


class Controllable:
    """Verbs that need no lease."""

    def cancel(self: Any) -> None:
        """Cancel the job: at once when no worker has it, else by asking its worker, who hears of it at its next write.

        Cancelling twice is no error; cancelling a completed or failed job raises InvalidTransition.
        """
        cls = type(self)
        is_free = cls.worker.is_null()
        row = {
            cls.status: pw.Case(None, [(is_free, JobStatus.CANCELLED.value)], cls.status),
            cls.completed_at: pw.Case(None, [(is_free, cls.server_time())], cls.completed_at),
            cls.cancel_requested_at: pw.fn.COALESCE(cls.cancel_requested_at, cls.server_time()),
        }
        self._write_where(cls.status.in_(UNFINISHED), row, "cancelled", unless=JobStatus.CANCELLED)

    def retry(self: Any) -> None:
        """Put a failed or cancelled job back into the queue, with at least one more attempt."""
        cls = type(self)
        one_more = pw.Case(None, [(cls.attempt >= cls.max_attempts, cls.attempt + 1)], cls.max_attempts)
        row = {
            cls.status: JobStatus.PENDING,
            cls.max_attempts: one_more,
            cls.run_at: cls.server_time(),
            cls.worker: None,
            cls.lease_expires_at: None,
            cls.started_at: None,
            cls.completed_at: None,
            cls.processing_time_seconds: None,
            cls.cancel_requested_at: None,
        }
        retryable = cls.status.in_((JobStatus.FAILED, JobStatus.CANCELLED)) & cls.deleted_at.is_null()
        self._write_where(retryable, row, "retried", unless=JobStatus.PENDING)

    def history(self: Any) -> list[Any]:
        """The job's changes of status as JobEvents, oldest first."""
        event = type(self).events.rel_model
        with session(self._meta.database):
            return list(event.select().where(event.job == self.id).order_by(event.id))

    def _write_where(self: Any, condition: Any, row: dict[Any, Any], verb: str, *, unless: JobStatus) -> None:
        """Write where the condition holds, and show the whole row on the instance.

        Raises InvalidTransition where it does not hold, except for a job that is in the status `unless` already.
        """
        cls = type(self)
        query = pw.ModelUpdate(cls, cls.touched(row)).where(cls.id == self.id, condition).returning(cls)
        with session(self._meta.database):
            job = next(iter(query.execute()), None)
            if job is None:
                job = cls.get_by_id(self.id)
                if job.status is not unless:
                    state = job.status if job.deleted_at is None else f"{job.status} and deleted"
                    raise InvalidTransition(f"job {self.id} is {state}; it cannot be {verb}")
        before = self.status
        self.take_over({field: job.__data__[field.name] for field in cls._meta.sorted_fields})
        log_job_status_change(self.id, before, self.status)
