"""Controllable: what the web application and the operator do with a job, whoever has it in hand."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final

import peewee as pw

from ..clock import database_now
from ..compiled import Parameter, Statement, compiled
from ..context import session
from ..errors import DatabaseUnavailable, InvalidTransition, PoolTimeout, PresgenError
from ..rows import Reading
from ..status import RUNNING, UNFINISHED, JobStatus
from .fenced import in_seconds, log_after_commit
from .outcomes import entered, requeued
from .written import Row

_FIRST_LOOK_SECONDS: Final = 0.02
_LOOK_EVERY_MAX_SECONDS: Final = 1.0


class _Change(Reading):
    """What a verb makes of a job that meets the verb's conditions."""

    def __init__(self, model: Any, row: Row, *conditions: Any) -> None:
        update = pw.ModelUpdate(model, model.touched(row)).where(model.id == Parameter("id"), *conditions)
        super().__init__(model, update.returning(*model._meta.sorted_fields), has_one_plan=True)
        self.fields = tuple(row)


@compiled
def _cancellation(model: Any) -> _Change:
    is_free, ended = model.worker.is_null(), entered(model, JobStatus.CANCELLED)
    row: Row = {field: pw.Case(None, [(is_free, value)], field) for field, value in ended.items()}
    row[model.cancel_requested_at] = pw.fn.COALESCE(model.cancel_requested_at, model.server_time())
    return _Change(model, row, model.status.in_(UNFINISHED))


@compiled
def _retry(model: Any) -> _Change:
    is_retryable = model.status.in_((JobStatus.FAILED, JobStatus.CANCELLED)) & model.deleted_at.is_null()
    return _Change(model, {**requeued(model), model.run_at: model.server_time()}, is_retryable)


@compiled
def _soft_deletion(model: Any) -> _Change:
    row = {model.deleted_at: pw.fn.COALESCE(model.deleted_at, model.server_time())}
    return _Change(model, row, model.status.not_in(UNFINISHED))


@compiled
def _undeletion(model: Any) -> _Change:
    return _Change(model, {model.deleted_at: None})


@compiled
def _look(model: Any) -> Statement:
    look = model.select(model.status, model.deleted_at).where(model.id == Parameter("id"))
    return Statement(model, look, has_one_plan=True)


@compiled
def _history(event: Any) -> Reading:
    return Reading(event, event.select().where(event.job == Parameter("job")).order_by(event.id), has_one_plan=True)


class Controllable:
    """Verbs that need no lease."""

    def cancel(self: Any) -> None:
        """Cancel the job: at once when no worker has it, else by asking its worker, who hears of it at its next write.

        Cancelling twice is no error; cancelling a completed or failed job raises InvalidTransition.
        """
        self._make(_cancellation(type(self)), "cancelled", unless=JobStatus.CANCELLED)

    def retry(self: Any) -> None:
        """Put a failed or cancelled job back into the queue, with at least one more attempt."""
        self._make(_retry(type(self)), "retried", unless=JobStatus.PENDING)

    def soft_delete(self: Any) -> None:
        """Hide a finished job: `alive()`, lists and counts leave it out. Again is no error.

        Raises InvalidTransition for a job that is not finished; cancel it first.
        """
        self._make(_soft_deletion(type(self)), "soft-deleted", unless=None)

    def undelete(self: Any) -> None:
        """Show a soft-deleted job again; one that was not deleted is no error."""
        self._make(_undeletion(type(self)), "undeleted", unless=None)

    def history(self: Any) -> list[Any]:
        """The job's changes of status as JobEvents, oldest first."""
        event = type(self).events.rel_model
        return _history(event).instances({"job": self.id})

    def stage_seconds(self: Any) -> dict[JobStatus, float]:
        """How many seconds the job has spent in each running stage it was in, over all its attempts.

        From its history; the stage that it is in counts until now, by the database's clock.
        """
        with session(self._meta.database) as database:
            history = self.history()
            now = database_now(database)
        spent: dict[JobStatus, float] = {}
        moments = [*((event.to_status, event.at) for event in history), (None, now)]
        for (stage, began), (_, ended) in pairwise(moments):
            if stage in RUNNING:
                # A server's clock may have been set back in between.
                spent[stage] = spent.get(stage, 0.0) + max(0.0, (ended - began).total_seconds())
        return spent

    def wait(self: Any, timeout: timedelta | float | None = None) -> JobStatus:
        """Wait until the job is completed, failed or cancelled, whoever works on it; gives that status.

        Looks at the database, less and less often (at most once a second), and holds no connection in between; an
        outage that begins meanwhile is waited out. Shows the row as it is in the end. `timeout` is seconds or a
        timedelta, None for ever. Raises TimeoutError, and PresgenError where it would wait in vain: in a transaction,
        and for a job that was deleted.
        """
        if self._meta.database is not None and self._meta.database.in_transaction():
            raise PresgenError(f"wait() for job {self.id} inside a transaction may never see its end: commit first")
        deadline = None
        if timeout is not None:
            deadline = time.monotonic() + in_seconds(timeout, "timeout", or_zero=True)
        status: JobStatus = self._look()
        pause = _FIRST_LOOK_SECONDS
        while not status.is_finished:
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                self._look(show=True)
                raise TimeoutError(f"job {self.id} is still {status}; is a worker running?")
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, _LOOK_EVERY_MAX_SECONDS)
            with suppress(DatabaseUnavailable, PoolTimeout):
                status = self._look()
        return status

    def _look(self: Any, *, show: bool = False) -> JobStatus:
        """The stored status; the instance shows the row once that is an end."""
        cls = type(self)
        with session(self._meta.database):
            found = _look(cls).run({"id": self.id})
            if not found:
                raise PresgenError(f"job {self.id} was deleted")
            ((stored, deleted_at),) = found
            status: JobStatus = cls.status.python_value(stored)
            if deleted_at is not None and status is JobStatus.PENDING:
                raise PresgenError(f"job {self.id} was deleted while it was pending, and no worker claims it")
            if show or status.is_finished:
                self._show(cls.get_by_id(self.id))
        return status

    def _show(self: Any, now: Any, *, written: Collection[Any] = ()) -> None:
        """Let the instance show the row as it is, but for what is not saved yet."""
        unsaved = self._dirty - {field.name for field in written}
        fields = [field for field in type(self)._meta.sorted_fields if field.name not in unsaved]
        self.take_over({field: now.__data__[field.name] for field in fields})

    def _make(self: Any, change: _Change, verb: str, *, unless: JobStatus | None) -> None:
        """Make the change where its condition holds, and show the whole row on the instance.

        Raises InvalidTransition where it does not hold, except for a job that is in the status `unless` already.
        """
        cls, before = type(self), self.status
        with session(self._meta.database):
            written = next(iter(change.instances({"id": self.id})), None)
            now = written or cls.get_by_id(self.id)
        if written is None and now.status is not unless:
            state = now.status if now.deleted_at is None else f"{now.status} and deleted"
            raise InvalidTransition(f"job {self.id} is {state}; it cannot be {verb}")
        self._show(now, written=change.fields)
        if written is not None and unless is not None and now.status is unless:
            log_after_commit(self._meta.database, self.id, before, now.status)
