"""Leased: what a worker does with the job in its hand."""

from __future__ import annotations

from typing import Any, Final

import peewee as pw

from ..clock import backoff_time
from ..context import session
from ..errors import InvalidTransition, ValidationError
from ..status import RUNNING, JobStatus
from ..validation import LONG_TEXT_MAX
from .fenced import Fenced
from .outcomes import entered, requeued

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


class Leased(Fenced):
    """Verbs of a worker. Each is one statement that raises LeaseLost or JobCancelled when it may not write."""

    def advance(self: Any, status: JobStatus, **columns: Any) -> None:
        """Enter the next stage and store `columns`; extends the lease. Raises InvalidTransition."""
        cls = type(self)
        target = cls.status.clean(status)
        if not target.is_running or target is self.status:
            raise InvalidTransition(f"advance() goes to the next running stage, not to {target}")
        self._require_transition(target)
        self.write_fenced({**entered(cls, target, self._measured(columns)), **self._extended_lease()})

    def heartbeat(self: Any, progress: float | None = None, checkpoint: Any = None) -> None:
        """Extend the lease, and store the progress (0..1) and the checkpoint (a JSON value) where given.

        They are stored even when the job turns out to be cancelled, which raises JobCancelled.
        """
        cls = type(self)
        given = {cls.progress: progress, cls.checkpoint: checkpoint}
        row = {field: field.clean(value) for field, value in given.items() if value is not None}
        written = self._sign_of_life(row)
        self.take_over({**row, **written})
        if self.cancel_requested_at is not None:
            raise self.cancelled_error()

    def keep_alive(self: Any) -> None:
        """Extend the lease and leave the instance alone, so that another thread than the handler's may call it."""
        if self._sign_of_life({})[type(self).cancel_requested_at] is not None:
            raise self.cancelled_error()

    def _sign_of_life(self: Any, row: dict[Any, Any]) -> dict[Any, Any]:
        cls = type(self)
        read_back = (cls.lease_expires_at, cls.updated_at, cls.cancel_requested_at)
        row = cls.touched({**row, **self._extended_lease()})
        query = pw.ModelUpdate(cls, row).where(self.fence() & cls.status.in_(RUNNING)).returning(*read_back).tuples()
        with session(self._meta.database):
            written = list(query.execute())
            if not written:
                raise self.why_not_written()
        return dict(zip(read_back, written[0], strict=True))

    def complete(self: Any, s3_video_path: str, **columns: Any) -> None:
        """Finish the job with its video, measured values in `columns`."""
        columns = {"progress": 1.0, "s3_video_path": s3_video_path, "error_message": None, **columns}
        self._end(JobStatus.COMPLETED, self._measured(columns))

    def fail(self: Any, error: str | BaseException, retry: bool = True) -> None:
        """Record why the attempt failed: back to PENDING with a backoff, or FAILED when attempts are used up."""
        cls = type(self)
        message = {cls.error_message: _as_message(error)}
        if retry and self.attempt < self.max_attempts and self.status.is_running:
            self.write_fenced({**requeued(cls), **message, cls.run_at: backoff_time(self._meta.database)})
        else:
            self._end(JobStatus.FAILED, message)

    def release(self: Any) -> None:
        """Give the job back unfinished, at once claimable; the attempt does not count."""
        cls = type(self)
        self._require_transition(JobStatus.PENDING)
        self.write_fenced({**requeued(cls), cls.max_attempts: cls.max_attempts + 1})

    def acknowledge_cancellation(self: Any) -> None:
        """End a running job whose cancellation was asked for, after its handler has let go of it."""
        self._end(JobStatus.CANCELLED, {}, cancelled=True)

    def _end(self: Any, status: JobStatus, row: dict[Any, Any], *, cancelled: bool = False) -> None:
        self._require_transition(status)
        self.write_fenced(entered(type(self), status, row), cancelled=cancelled)

    def _measured(self: Any, columns: dict[str, Any]) -> dict[Any, Any]:
        for name in columns:
            if name not in _MEASURED:
                known = ", ".join(sorted(_MEASURED))
                raise ValidationError(f"a worker cannot set {name}; it can set {known}", field=name, rule="unknown")
        row: dict[Any, Any] = type(self).cleaned(columns, creating=False)
        return row

    def _require_transition(self: Any, target: JobStatus) -> None:
        if target is self.status or not self.status.can_become(target):
            raise InvalidTransition(f"job {self.id} cannot go from {self.status} to {target}")

    def _extended_lease(self: Any) -> dict[Any, Any]:
        cls = type(self)
        return {} if self.worker is None else {cls.lease_expires_at: cls.server_time(plus_seconds=self.lease_seconds)}


def _as_message(error: str | BaseException) -> str:
    """A storable message: errors with their class, NUL and lone surrogates replaced, over-long text cut."""
    if isinstance(error, BaseException):
        said = str(error).strip()
        error = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if not isinstance(error, str):
        raise ValidationError("error must be text or an exception", field="error", rule="type")
    text = error.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    if len(text) > LONG_TEXT_MAX:
        text = text[: LONG_TEXT_MAX - 1] + "…"
    return text if text.strip() else "failed without a message"
