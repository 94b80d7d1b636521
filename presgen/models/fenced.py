"""Fenced: writes of a worker that happen only while the job is still in its hand."""

from __future__ import annotations

import copy
import logging
import random
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any, Final

import peewee as pw

from ..compiled import compiled
from ..context import has_committed, session
from ..errors import (
    CommitUnknown,
    DatabaseBusy,
    DatabaseUnavailable,
    InvalidTransition,
    JobCancelled,
    LeaseLost,
    PoolTimeout,
    PresgenError,
)
from ..rows import Reading
from ..status import RUNNING, JobStatus
from ..validation import argument, between, number, positive
from .outcomes import leased
from .written import Guard, Row, Shape, Write, guarded, has_worker, shape_of, statement_for, template

logger = logging.getLogger("database")

DEFAULT_LEASE: Final = timedelta(seconds=60)
DURATION_MAX_SECONDS: Final = 1_000_000
# After these the same fenced write may be sent again.
REPEATED: Final = (CommitUnknown, DatabaseUnavailable, DatabaseBusy, PoolTimeout)
_FIRST_REPEAT_SECONDS: Final = 0.05
_REPEAT_MAX_SECONDS: Final = 1.0
# What tells one end of an attempt from another, that of the rescue of an expired lease above all.
_TELLING: Final = ("error_message", "run_at", "s3_video_path")


Outcome = Callable[[Any, Row], Row]
"""What a verb makes of the given values of a model's row; a module's function, by which its statement is kept."""


def log_job_status_change(job_id: int, old_status: JobStatus, new_status: JobStatus) -> None:
    """Log on `database` that a job changed its status."""
    if old_status is not new_status:
        logger.info("Job %s status changed: %s -> %s", job_id, old_status, new_status)


def log_after_commit(database: Any, job_id: int, old_status: JobStatus, new_status: JobStatus) -> None:
    """Log the change once it is certain: at once outside a transaction, and in manual_commit()."""
    log = partial(log_job_status_change, job_id, old_status, new_status)
    if isinstance(database.top_transaction(), pw._manual):
        log()  # nobody tells when that commits
    else:
        database.after_commit(log)


def in_seconds(duration: timedelta | float, name: str, *, or_zero: bool = False) -> float:
    """A duration in seconds, plain numbers being seconds already; raises ValidationError unless it is positive."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    seconds = argument(number, seconds, name)
    if not or_zero:
        argument(positive(), seconds, name)
    return float(argument(between(0, DURATION_MAX_SECONDS), seconds, name))


@compiled
def _fenced_write(
    model: Any, given: Shape, outcome: Outcome, guard: Shape, cancelled: bool, extends_lease: bool
) -> Write:
    row = model.touched(outcome(model, template(model, given)))
    row |= leased(model) if extends_lease and has_worker(guard) else {}
    return Write(model, row, where=guarded(model, guard) & model.cancel_requested_at.is_null(not cancelled))


@compiled
def _held(model: Any, claim: Shape) -> Reading:
    return Reading(model, model.select().where(guarded(model, claim), model.status.in_(RUNNING)), has_one_plan=True)


class Fenced:
    """The part of a job that guards a worker's writes by attempt, worker and status.

    `attempt` is the fencing token: every claim raises it, so a worker that slept through its lease cannot
    write over the next one, even under the same name.
    """

    lease_seconds: float = DEFAULT_LEASE.total_seconds()
    """How long each sign of life keeps the lease, as claimed."""
    claim_token: tuple[str, int] | None = None
    """The worker and the attempt of the claim that gave this instance out; None for one that was only read.

    The columns are no token: `wait()`, `cancel()` and `retry()` show the row as it is, another worker's claim included.
    """
    has_let_go = False
    """Whether a verb of this instance's has ended its claim, and no transaction can undo that."""
    waits_out_outages = False
    """Whether a verb waits for a database that is down, for as long as its lease lasts."""
    unknown_change: tuple[JobStatus, JobStatus] | None = None
    """The change of status of which CommitUnknown was raised: called again, the verb looks whether it was made."""

    @classmethod
    def in_hand(cls: Any, job_id: int, *, worker: str, attempt: int) -> Any:
        """The running job as the database has it, if it still is in that worker's hand; else None."""
        job_id, worker = cls.id.clean_value(job_id), cls.worker.clean_value(worker)
        attempt = cls.attempt.clean_value(attempt)
        claim = Guard({cls.id: job_id, cls.worker: worker, cls.attempt: attempt})
        for job in _held(cls, claim.shape).instances(claim.values):
            job.claim_token = (worker, attempt)
            return job
        return None

    def lease_keeper(self: Any) -> Any:
        """An instance of its own for another thread, which nothing that is done with this one touches."""
        keeper = copy.copy(self)
        keeper.__data__, keeper.__rel__, keeper._dirty = dict(self.__data__), {}, set()
        return keeper

    def holder(self: Any) -> tuple[str | None, int]:
        """The worker and the attempt for which this instance writes: its claim's, unless somebody assigned others."""
        is_assigned = self._dirty & {"worker", "attempt"}
        return self.claim_token if self.claim_token and not is_assigned else (self.worker, self.attempt)

    def fence(self: Any) -> Row:
        """What the stored row has while it is in this worker's hand."""
        cls, (worker, attempt) = type(self), self.holder()
        return {cls.id: self.id, cls.worker: worker, cls.attempt: attempt}

    def write_fenced(
        self: Any, given: Row, outcome: Outcome, *, cancelled: bool = False, extends_lease: bool = False
    ) -> None:
        """Write the outcome of what is given in one statement, and show it on the instance.

        Raises LeaseLost or JobCancelled, and then has written nothing. With `cancelled` the write is for jobs
        whose cancellation was asked for, else for the others.
        """
        cls = type(self)
        guard = Guard({**self.fence(), cls.status: self.status})
        write = statement_for(_fenced_write, cls, shape_of(given), outcome, guard.shape, cancelled, extends_lease)
        change = (self.status, {**write.row, **given}.get(cls.status, self.status))

        def applied_before() -> Row | None:
            now = self._stored_as(change, {**write.row, **given})
            return now and {field: now.__data__[field.name] for field in write.row}

        try:
            written = self.execute_fenced(
                lambda: write.run(given, lease_seconds=self.lease_seconds, **guard.values),
                applied_before,
                may_be_applied=self.unknown_change == change,
            )
        except CommitUnknown:
            self.unknown_change = change
            raise
        self.unknown_change = None
        self.take_over(written)
        self.has_let_go = not self.status.is_running and has_committed(self._meta.database)
        self.forget_claim_if_pending()
        log_after_commit(self._meta.database, self.id, *change)

    def execute_fenced(
        self: Any,
        write: Callable[[], Row | None],
        applied_before: Callable[[], Row | None] = lambda: None,
        *,
        may_be_applied: bool = False,
    ) -> Row:
        """The row that a fenced write gives; `applied_before` is asked for it after a lost reply.

        A lost reply leaves open whether the write was applied. Under the fence it cannot be applied twice, so it is
        repeated on a fresh connection for as long as the lease lasts; then CommitUnknown says that nobody knows.
        So is a write that the database was too busy for. Raises LeaseLost or JobCancelled when the fence let nothing
        through, DatabaseUnavailable when it was never sent.
        """
        database, pause = self._meta.database, _FIRST_REPEAT_SECONDS
        deadline = time.monotonic() + self.lease_seconds
        unknown: CommitUnknown | None = None
        for tries in count():
            try:
                with session(database):
                    written = write()
                    if written is None and (may_be_applied or unknown is not None):
                        written = applied_before()
                    if written is None:
                        raise self.why_not_written()
                return written
            except REPEATED as error:
                unknown = error if isinstance(error, CommitUnknown) else unknown
                is_patient = unknown or self.waits_out_outages or isinstance(error, DatabaseBusy)
                if database.in_transaction() or time.monotonic() > deadline or (tries and not is_patient):
                    raise unknown or error from None
                if not tries:
                    logger.warning("Job %s: %s; trying again", self.id, type(error).__name__)
            if tries:  # the first repeat only needs another connection than the one that had died
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, _REPEAT_MAX_SECONDS)
        raise AssertionError("unreachable")

    def forget_claim_if_pending(self: Any) -> None:
        """A job that its holder has put back into the queue is nobody's."""
        if self.status is JobStatus.PENDING:
            self.claim_token = None

    def why_not_written(self: Any, expected: JobStatus | None = None) -> PresgenError:
        """The error that explains why the fence let nothing through, which expected a status, by default the job's."""
        cls, expected = type(self), expected or self.status
        now = cls.get_or_none(cls.id == self.id)
        if now is None:
            return LeaseLost(f"job {self.id} was deleted; drop its work")
        if now.status is JobStatus.CANCELLED or (now.status.is_running and now.cancel_requested_at is not None):
            cancelled: JobCancelled = self.cancelled_error()
            return cancelled
        worker, attempt = self.holder()
        if (now.status, now.worker, now.attempt) == (expected, worker, attempt):
            if now.status.is_running:
                return InvalidTransition(f"job {self.id}: nobody has asked to cancel it; cancel() does")
            return LeaseLost(f"job {self.id} is {now.status}; only a running job has a lease")
        return LeaseLost(
            f"job {self.id} is {now.status} at attempt {now.attempt} of {now.worker or 'nobody'}, "
            f"no longer {expected} at attempt {attempt} of {worker or 'nobody'}; drop its work"
        )

    def cancelled_error(self: Any) -> JobCancelled:
        """The error that tells a handler to let go of the job."""
        return JobCancelled(f"job {self.id} was cancelled; drop its work")

    def _is_holder(self: Any, columns: Any) -> Any:
        """Whether a row of jobs or of events is of this instance's claim."""
        worker, attempt = self.holder()
        return (columns.attempt == attempt) & (columns.worker.is_null() if worker is None else columns.worker == worker)

    def _stored_as(self: Any, change: tuple[JobStatus, JobStatus], row: dict[Any, Any]) -> Any:
        """The stored job, if an earlier try of this very write made the change; None if none did.

        The record tells that an attempt of this worker's made it. Only a worker enters stages; but a rescue ends
        attempts as well, in the worker's name, and leaves other columns behind than this write. Raises CommitUnknown
        when the job has gone on since, and nobody can tell the two apart.
        """
        cls, (before, after) = type(self), change
        event = cls.events.rel_model
        made = event.select().where(event.job == self.id, event.from_status == before, event.to_status == after)
        if before is after or not made.where(self._is_holder(event)).exists():
            return None
        now = cls.get_by_id(self.id)
        if after.is_running:
            return now
        if (now.status, now.attempt) != (after, self.holder()[1]):
            raise CommitUnknown(f"job {self.id} went from {before} to {after} and on; see its history()")
        left = {name: row.get(cls._meta.fields[name], self.__data__.get(name)) for name in _TELLING}
        is_ours = all(isinstance(value, pw.Node) or now.__data__[name] == value for name, value in left.items())
        return now if is_ours else None
