"""Leased: what a worker does with the job in its hand."""

from __future__ import annotations

from typing import Any

import peewee as pw

from ..clock import backoff_time, seconds_since
from ..context import session
from ..errors import InvalidTransition, JobCancelled, ValidationError
from ..status import RUNNING, JobStatus
from ..validation import LONG_TEXT_MAX
from .fenced import Fenced


class Leased(Fenced):
    """Verbs of a worker. Each is one statement that raises LeaseLost or JobCancelled when it may not write."""

    def advance(self: Any, status: JobStatus, **columns: Any) -> None:
        """Enter the next stage and store `columns`; extends the lease. Raises InvalidTransition."""
        cls = type(self)
        target = cls.status.clean(status)
        if not target.is_running or target is self.status:
            raise InvalidTransition(f"advance() goes to the next running stage, not to {target}")
        self._require_transition(target)
        self.write_fenced({**cls.cleaned(columns, creating=False), cls.status: target, **self._extended_lease()})

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
            raise JobCancelled(f"job {self.id} was cancelled; drop its work")

    def keep_alive(self: Any) -> None:
        """Extend the lease and leave the instance alone, so that another thread than the handler's may call it."""
        if self._sign_of_life({})[type(self).cancel_requested_at] is not None:
            raise JobCancelled(f"job {self.id} was cancelled; drop its work")

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

    def complete(self: Any, *, s3_video_path: str, **columns: Any) -> None:
        """Finish the job with its video, measured values in `columns`."""
        cls = type(self)
        columns = {"progress": 1.0, "s3_video_path": s3_video_path, "error_message": None, **columns}
        self.write_fenced({**cls.cleaned(columns, creating=False), **self._ended(JobStatus.COMPLETED)})

    def fail(self: Any, error: str | BaseException, retry: bool = True) -> None:
        """Record why the attempt failed: back to PENDING with a backoff, or FAILED when attempts are used up."""
        cls = type(self)
        message = {cls.error_message: _as_message(error)}
        if retry and self.attempt < self.max_attempts and self.status.is_running:
            self.write_fenced({**message, **self._returned(), cls.run_at: backoff_time(self._meta.database)})
        else:
            self.write_fenced({**message, **self._ended(JobStatus.FAILED)})

    def release(self: Any) -> None:
        """Give the job back unfinished, at once claimable; the attempt does not count."""
        cls = type(self)
        self._require_transition(JobStatus.PENDING)
        self.write_fenced({**self._returned(), cls.max_attempts: self.max_attempts + 1})

    def acknowledge_cancellation(self: Any) -> None:
        """End a running job whose cancellation was asked for, after its handler has let go of it."""
        self.write_fenced(self._ended(JobStatus.CANCELLED), cancelled=True)

    def _require_transition(self: Any, target: JobStatus) -> None:
        if not self.status.can_become(target):
            raise InvalidTransition(f"job {self.id} cannot go from {self.status} to {target}")

    def _extended_lease(self: Any) -> dict[Any, Any]:
        cls = type(self)
        return {} if self.worker is None else {cls.lease_expires_at: cls.server_time(plus_seconds=self.lease_seconds)}

    def _returned(self: Any) -> dict[Any, Any]:
        cls = type(self)
        return {
            cls.status: JobStatus.PENDING,
            cls.worker: None,
            cls.lease_expires_at: None,
            cls.started_at: None,
            cls.progress: 0.0,
        }

    def _ended(self: Any, status: JobStatus) -> dict[Any, Any]:
        cls = type(self)
        self._require_transition(status)
        row = {cls.status: status, cls.completed_at: cls.server_time(), cls.lease_expires_at: None}
        if self.started_at is not None:
            row[cls.processing_time_seconds] = seconds_since(self._meta.database, cls.started_at)
        return row


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
