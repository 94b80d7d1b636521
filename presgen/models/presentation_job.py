"""PresentationJob: a deck on its way to becoming a narrated video."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import peewee as pw

from .. import validation
from ..clock import seconds_since
from ..errors import InvalidTransition, ValidationError
from ..fields import (
    BigWholeField,
    DocumentField,
    IdField,
    LongTextField,
    MomentField,
    NumberField,
    ReferenceField,
    SameOwnerField,
    StatusField,
    VarcharField,
    WholeField,
)
from ..status import RUNNING, UNFINISHED, JobStatus
from .base import BaseModel, Row
from .claimable import Claimable
from .controllable import Controllable
from .fenced import log_job_status_change
from .leased import Leased
from .user import User
from .voice_clone import VoiceClone

# A double's NaN and Infinity pass "> 0" on PostgreSQL; an upper bound stops them.
SECONDS_MAX = 1_000_000_000


class PresentationJob(Claimable, Leased, Controllable, BaseModel):
    """One job. Paths are S3 keys, `*_seconds` seconds, `file_size_bytes` bytes, `progress` 0 to 1.

    `attempt` counts claims and fences writes; `lease_expires_at` is until when `worker` has the job in hand.
    """

    id = IdField()
    status = StatusField(default=JobStatus.PENDING)
    s3_pptx_path = VarcharField(max_length=1000)
    s3_video_path = VarcharField(max_length=1000, null=True)
    slides_count = WholeField(null=True, rules=[validation.positive()])
    video_duration_seconds = NumberField(null=True, rules=[validation.positive(), validation.between(0, SECONDS_MAX)])
    file_size_bytes = BigWholeField(null=True, rules=[validation.positive()])
    processing_time_seconds = NumberField(null=True, rules=[validation.between(0, SECONDS_MAX)])
    error_message = LongTextField(null=True)
    created_at = MomentField(now=True)
    updated_at = MomentField(now=True)
    started_at = MomentField(null=True)
    completed_at = MomentField(null=True)
    owner = ReferenceField(User, backref="presentations", on_delete="CASCADE", index=False)
    voice_clone = SameOwnerField(
        VoiceClone,
        backref="presentations",
        on_delete="RESTRICT",
        index=False,
        constraint_name="presentation_jobs_own_voice_clone",
    )
    priority = WholeField(default=0)
    run_at = MomentField(now=True)
    attempt = WholeField(default=0, rules=[validation.between(0, 2**31 - 1)])
    max_attempts = WholeField(default=3, rules=[validation.positive()])
    worker = VarcharField(max_length=255, null=True)
    lease_expires_at = MomentField(null=True)
    cancel_requested_at = MomentField(null=True)
    progress = NumberField(default=0.0, rules=[validation.between(0, 1)])
    checkpoint = DocumentField(null=True)
    idempotency_key = VarcharField(max_length=255, null=True)
    deleted_at = MomentField(null=True)

    stored_status: JobStatus | None = None
    """The status that the database held before this instance changed it."""

    class Meta:
        table_name = "presentation_jobs"
        constraints = [
            pw.Check(f"status IN ({', '.join(repr(status.value) for status in JobStatus)})", name="valid_status"),
            pw.Check("completed_at IS NULL OR completed_at >= started_at", name="valid_completion_time"),
            pw.Check("status != 'completed' OR s3_video_path IS NOT NULL", name="completed_jobs_have_video"),
            pw.Check("slides_count > 0", name="positive_slides_count"),
            pw.Check(
                f"video_duration_seconds > 0 AND video_duration_seconds <= {SECONDS_MAX}",
                name="positive_video_duration",
            ),
            pw.Check("file_size_bytes > 0", name="positive_video_file_size"),
            pw.Check(f"processing_time_seconds BETWEEN 0 AND {SECONDS_MAX}", name="valid_processing_time"),
            pw.Check("progress BETWEEN 0 AND 1", name="valid_progress"),
            pw.Check("max_attempts > 0 AND attempt BETWEEN 0 AND max_attempts", name="valid_attempt"),
            pw.Check("lease_expires_at IS NULL OR worker IS NOT NULL", name="lease_has_worker"),
            pw.Check("length(trim(s3_pptx_path)) > 0 AND length(s3_pptx_path) <= 1000", name="valid_s3_pptx_path"),
            pw.Check("length(trim(s3_video_path)) > 0 AND length(s3_video_path) <= 1000", name="valid_s3_video_path"),
            pw.Check(f"length(error_message) <= {validation.LONG_TEXT_MAX}", name="valid_error_message"),
            pw.Check("length(worker) BETWEEN 1 AND 255", name="valid_worker"),
            pw.Check("length(idempotency_key) BETWEEN 1 AND 255", name="valid_idempotency_key"),
        ]

    def __repr__(self) -> str:
        status = f", status={str(self.status)!r}" if self.status is not None else ""
        return f"<PresentationJob(id={self._pk}{status})>"

    @classmethod
    def alive(cls) -> Any:
        """Select the jobs that are not soft-deleted."""
        return cls.select().where(cls.deleted_at.is_null())

    @property
    def cursor(self) -> str:
        """The job's place in lists, newest first: what `queries.get_presentation_jobs(after=…)` takes."""
        return f"{self.created_at.isoformat()}~{self.id}"

    def validate(self, *, creating: bool) -> None:
        super().validate(creating=creating)
        before = None if creating or "status" not in self._dirty else self.stored_status
        if before is not None and isinstance(self.status, JobStatus) and not before.can_become(self.status):
            raise InvalidTransition(f"job {self._pk} cannot go from {before} to {self.status}")
        if self.status is JobStatus.COMPLETED and self.s3_video_path is None:
            raise ValidationError(
                "a completed job needs s3_video_path", field="s3_video_path", rule="completed_jobs_have_video"
            )
        moments = (self.started_at, self.completed_at)
        if all(isinstance(moment, datetime) for moment in moments) and moments[1] < moments[0]:
            raise ValidationError(
                "completed_at must not lie before started_at", field="completed_at", rule="valid_completion_time"
            )

    def save(self, force_insert: bool = False, only: Iterable[Any] | None = None) -> int:
        before = self.stored_status if "status" in self._dirty else self.status
        written = super().save(force_insert, only)
        if written and before is not None:
            log_job_status_change(self.id, before, self.status)
        return written

    def derived(self, row: Row, *, creating: bool) -> Row:
        """The row with the times and the lease that follow from a new status, where the caller left them out."""
        cls = type(self)
        row = super().derived(row, creating=creating)
        status = row.get(cls.status)
        if status is None or isinstance(status, pw.Node):
            return row
        follows: Row = {}
        if status is JobStatus.PENDING and not creating:
            follows = dict.fromkeys(
                (
                    cls.worker,
                    cls.lease_expires_at,
                    cls.started_at,
                    cls.completed_at,
                    cls.processing_time_seconds,
                    cls.cancel_requested_at,
                )
            )
        if (status.is_running or status is JobStatus.COMPLETED) and self.started_at is None:
            follows[cls.started_at] = self.server_time()
        if status.is_finished:
            follows[cls.lease_expires_at] = None
            if self.completed_at is None:
                follows[cls.completed_at] = self.server_time()
        follows |= self._processing_time(status)
        return {**follows, **row}

    def _processing_time(self, status: JobStatus) -> Row:
        cls = type(self)
        if not status.is_finished or self.processing_time_seconds is not None:
            return {}
        if self.started_at is None:
            return {cls.processing_time_seconds: 0.0} if status is JobStatus.COMPLETED else {}
        if isinstance(self.completed_at, datetime):
            return {cls.processing_time_seconds: (self.completed_at - self.started_at).total_seconds()}
        return {cls.processing_time_seconds: seconds_since(self._meta.database, self.started_at)}


def _index(*columns: Any, name: str, **options: Any) -> None:
    PresentationJob.add_index(PresentationJob.index(*columns, name=name, **options))


_index(PresentationJob.status, name="idx_presentation_jobs_status")
_index(PresentationJob.voice_clone, name="idx_presentation_jobs_voice_clone")
_index(PresentationJob.owner, PresentationJob.status, name="idx_presentation_jobs_owner_status")
# The id makes the order total, which keyset pages need.
_index(PresentationJob.created_at.desc(), PresentationJob.id.desc(), name="idx_presentation_jobs_created_at")
_index(
    PresentationJob.priority.desc(),
    PresentationJob.run_at,
    PresentationJob.id,
    where=PresentationJob.status == JobStatus.PENDING,
    name="idx_presentation_jobs_claimable",
)
# By id and not by lease: an index on the lease would end HOT updates, and with them cheap heartbeats.
_index(PresentationJob.id, where=PresentationJob.status.in_(RUNNING), name="idx_presentation_jobs_running")
_index(
    PresentationJob.owner,
    PresentationJob.idempotency_key,
    unique=True,
    where=PresentationJob.idempotency_key.is_null(False) & PresentationJob.status.in_(UNFINISHED),
    name="idx_presentation_jobs_idempotency_key",
)
