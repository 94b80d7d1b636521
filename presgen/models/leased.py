"""Leased: what a worker does with the job in its hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final

from ..acting import acting_alike
from ..compiled import compiled
from ..errors import InvalidTransition, JobCancelled, PresgenError, ValidationError
from ..heartbeat import Heartbeat
from ..status import RUNNING, JobStatus
from ..validation import LONG_TEXT_MAX, argument, flag
from .fenced import Fenced, Outcome, in_seconds
from .outcomes import as_given, delayed, into_status, leased, released
from .written import Guard, Row, Shape, Write, guarded, has_worker, shape_of, statement_for, template

# A lease survives two heartbeats that are late or lost.
HEARTBEATS_PER_LEASE: Final = 3

_MEASURED: Final = frozenset(
    {
        "checkpoint",
        "error_message",
        "file_size_bytes",
        "processing_time_seconds",
        "progress",
        "s3_video_path",
        "slides_count",
        "video_duration_seconds",
    }
)
"""What a worker may set of a job; the rest is the life cycle's."""


@compiled
def _sign_of_life(model: Any, given: Shape, guard: Shape) -> Write:
    row = model.touched(template(model, given))
    row |= leased(model) if has_worker(guard) else {}
    condition = guarded(model, guard) & model.status.in_(RUNNING)
    return Write(model, row, where=condition, also_read=(model.lease_expires_at, model.cancel_requested_at))


class Leased(Fenced):
    """Verbs of a worker. Each is one statement that raises LeaseLost or JobCancelled when it may not write.

    What advance() and complete() were to store is recorded even for a job that turns out to be cancelled.
    """

    resumed_at: JobStatus | None = None
    """The stage of an earlier attempt at which the claim took the job up again."""

    def advance(self: Any, status: JobStatus, **columns: Any) -> None:
        """Enter the next stage and store `columns`; extends the lease. Raises InvalidTransition.

        A job that was resumed stays in its stage while a handler that starts from the beginning catches up.
        """
        cls = type(self)
        target, measured = cls.status.clean(status), self._measured(columns)
        if self._has_been_in(target):
            self._write_or_record(measured, as_given, measured, extends_lease=True)
            return
        if not target.is_running or target is self.status:
            raise InvalidTransition(f"advance() goes to the next running stage, not to {target}")
        self._require_transition(target)
        self._write_or_record({cls.status: target, **measured}, into_status, measured, extends_lease=True)

    def heartbeat(self: Any, progress: float | None = None, checkpoint: Any = None) -> None:
        """Extend the lease, and store the progress (0..1) and the checkpoint (a JSON value) where given.

        They are stored even when the job turns out to be cancelled, which raises JobCancelled.
        """
        cls = type(self)
        given = {cls.progress: progress, cls.checkpoint: checkpoint}
        row = {field: field.clean(value) for field, value in given.items() if value is not None}
        self.take_over(self._give_sign_of_life(row))
        if self.cancel_requested_at is not None:
            raise self.cancelled_error()

    def keep_alive(self: Any) -> None:
        """Extend the lease and leave the instance as it is."""
        if self._give_sign_of_life({})[type(self).cancel_requested_at] is not None:
            raise self.cancelled_error()

    @contextmanager
    def lease(self: Any, *, every: timedelta | float | None = None) -> Iterator[Any]:
        """Keep the lease alive from a thread for the block; for loops written by hand.

        `every` is the time between two signs of life (seconds or a timedelta), by default a third of the lease.
        That the job was lost or cancelled raises at its next verb, not here.
        """
        seconds = self.lease_seconds / HEARTBEATS_PER_LEASE if every is None else in_seconds(every, "every")
        if seconds >= self.lease_seconds:
            raise ValidationError(
                f"every must be less than the lease of {self.lease_seconds:g} s", field="every", rule="range"
            )
        keep_alive = acting_alike(self._meta.database, self.lease_keeper().keep_alive)
        with Heartbeat(keep_alive, every_seconds=seconds, name=f"heartbeat of job {self.id}"):
            yield self

    def _give_sign_of_life(self: Any, row: Row) -> Row:
        guard = Guard(self.fence())
        write = statement_for(_sign_of_life, type(self), shape_of(row), guard.shape)
        written: Row = self.execute_fenced(lambda: write.run(row, lease_seconds=self.lease_seconds, **guard.values))
        return written

    def complete(self: Any, s3_video_path: str, **columns: Any) -> None:
        """Finish the job with its video, measured values in `columns`."""
        cls = type(self)
        self._require_transition(JobStatus.COMPLETED)
        measured = {cls.s3_video_path: cls.s3_video_path.clean_value(s3_video_path), **self._measured(columns)}
        done = {cls.status: JobStatus.COMPLETED, cls.progress: 1.0, cls.error_message: None, **measured}
        self._write_or_record(done, into_status, measured)

    def fail(self: Any, error: str | BaseException, retry: bool = True) -> None:
        """Record why the attempt failed: back to PENDING with a backoff, or FAILED when attempts are used up."""
        retry = argument(flag, retry, "retry")
        cls = type(self)
        message = {cls.error_message: as_message(error)}
        if retry and self.attempt < self.max_attempts and self.status.is_running:
            self.write_fenced(message, delayed)
        else:
            self._end(JobStatus.FAILED, message)

    def release(self: Any, reason: str | None = None) -> None:
        """Give the job back unfinished, at once claimable; the attempt does not count.

        The reason, if any, is stored as `error_message`.
        """
        cls = type(self)
        if not self.status.is_running:
            raise InvalidTransition(f"job {self.id} is {self.status}; only a running job can be released")
        message = {} if reason is None else {cls.error_message: as_message(reason)}
        self.write_fenced(message, released)

    def acknowledge_cancellation(self: Any) -> None:
        """End a running job whose cancellation was asked for, after its handler has let go of it."""
        self._end(JobStatus.CANCELLED, {}, cancelled=True)

    def _end(self: Any, status: JobStatus, row: Row, *, cancelled: bool = False) -> None:
        self._require_transition(status)
        self.write_fenced({type(self).status: status, **row}, into_status, cancelled=cancelled)

    def _write_or_record(self: Any, row: Row, outcome: Outcome, measured: Row, *, extends_lease: bool = False) -> None:
        """Write the outcome; of a job that was cancelled, what was measured."""
        try:
            self.write_fenced(row, outcome, extends_lease=extends_lease)
        except JobCancelled:
            with suppress(PresgenError):  # it may be over already
                self.take_over(self._give_sign_of_life(measured))
            raise

    def _has_been_in(self: Any, target: JobStatus) -> bool:
        """Whether a resumed job, still where it was resumed, had reached that stage in an earlier attempt."""
        if self.resumed_at is None or self.status is not self.resumed_at or not target.is_running:
            return False
        return RUNNING.index(target) <= RUNNING.index(self.resumed_at)

    def _measured(self: Any, columns: dict[str, Any]) -> Row:
        for name in columns:
            if name not in _MEASURED:
                known = ", ".join(sorted(_MEASURED))
                raise ValidationError(f"a worker cannot set {name}; it can set {known}", field=name, rule="unknown")
        row: Row = type(self).cleaned(columns, creating=False)
        return row

    def _require_transition(self: Any, target: JobStatus) -> None:
        if target is self.status or not self.status.can_become(target):
            raise InvalidTransition(f"job {self.id} cannot go from {self.status} to {target}")


def _said(error: BaseException) -> str:
    try:
        return str(error).strip()
    except BaseException as failure:
        return f"its text cannot be had: {type(failure).__name__}"


def as_message(error: str | BaseException) -> str:
    """A storable message: errors with their class, NUL and lone surrogates replaced, over-long text cut."""
    if isinstance(error, BaseException):
        said = _said(error)
        error = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if not isinstance(error, str):
        raise ValidationError("error must be text or an exception", field="error", rule="type")
    text = error.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    if len(text) > LONG_TEXT_MAX:
        text = text[: LONG_TEXT_MAX - 1] + "…"
    return text if text.strip() else "failed without a message"
