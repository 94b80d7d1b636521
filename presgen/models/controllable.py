"""Controllable: what the web application and the operator do with a job, whoever has it in hand."""

from __future__ import annotations

from typing import Any

import peewee as pw

from ..context import session
from ..errors import InvalidTransition
from ..status import UNFINISHED, JobStatus
from .fenced import log_after_commit
from .outcomes import entered, requeued


class Controllable:
    """Verbs that need no lease."""

    def cancel(self: Any) -> None:
        """Cancel the job: at once when no worker has it, else by asking its worker, who hears of it at its next write.

        Cancelling twice is no error; cancelling a completed or failed job raises InvalidTransition.
        """
        cls = type(self)
        is_free, ended = cls.worker.is_null(), entered(cls, JobStatus.CANCELLED)
        row: dict[Any, Any] = {field: pw.Case(None, [(is_free, value)], field) for field, value in ended.items()}
        row[cls.cancel_requested_at] = pw.fn.COALESCE(cls.cancel_requested_at, cls.server_time())
        self._write_where(cls.status.in_(UNFINISHED), row, "cancelled", unless=JobStatus.CANCELLED)

    def retry(self: Any) -> None:
        """Put a failed or cancelled job back into the queue, with at least one more attempt."""
        cls = type(self)
        row = {**requeued(cls), cls.run_at: cls.server_time()}
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
        before = self.status
        with session(self._meta.database):
            written = next(iter(query.execute()), None)
            now = written or cls.get_by_id(self.id)
        if written is None and now.status is not unless:
            state = now.status if now.deleted_at is None else f"{now.status} and deleted"
            raise InvalidTransition(f"job {self.id} is {state}; it cannot be {verb}")
        unsaved = self._dirty - {field.name for field in row}
        shown = [field for field in cls._meta.sorted_fields if field.name not in unsaved]
        self.take_over({field: now.__data__[field.name] for field in shown})
        if written is not None and now.status is unless:
            log_after_commit(self._meta.database, self.id, before, now.status)
