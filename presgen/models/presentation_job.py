"""PresentationJob: a deck on its way to becoming a narrated video."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import peewee as pw

from .. import validation
from ..errors import InvalidTransition, ValidationError
from ..fields import (
    BigWholeField,
    DocumentField,
    IdField,
    LongTextField,
    MomentField,
    NumberField,
    StatusField,
    VarcharField,
    WholeField,
)
from ..references import ReferenceField, SameOwnerField
from ..status import RUNNING, UNFINISHED, JobStatus
from .base import BaseModel
from .claimable import Claimable
from .controllable import Controllable
from .fenced import log_after_commit
from .leased import Leased
from .outcomes import born, entered, requeued
from .queueable import Queueable
from .reapable import Reapable
from .revivable import Revivable
from .user import User
from .voice_clone import VoiceClone
from .written import Row

# A double's NaN and Infinity pass "> 0" on PostgreSQL; an upper bound stops them.
SECONDS_MAX = 1_000_000_000


class PresentationJob(Queueable, Claimable, Reapable, Leased, Controllable, Revivable, BaseModel):
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

    @classmethod
    def owned_by(cls, user: User | int) -> Any:
        """Select the jobs of a user, given as row or id; raises ValidationError for None and for an unsaved row."""
        return cls.select().where(cls.owner == cls.owner.clean_value(user))

    @property
    def cursor(self) -> str:
        """The job's place in lists, newest first: what `queries.get_presentation_jobs(after=…)` takes."""
        return f"{self.created_at.isoformat()}~{self.id}"

    def validate(self, fields: Iterable[Any], *, creating: bool) -> None:
        super().validate(fields, creating=creating)
        changed = {field.name for field in fields} & self._dirty
        before = None if creating or "status" not in changed else self.stored_status
        if before is not None and isinstance(self.status, JobStatus) and not before.can_become(self.status):
            raise InvalidTransition(f"job {self._pk} cannot go from {before} to {self.status}")
        is_known = creating or "s3_video_path" in self.__data__  # a partial select leaves it to the database
        if changed & {"status", "s3_video_path"} and is_known and self.status is JobStatus.COMPLETED:
            _require_video(self.s3_video_path)
        if changed & {"started_at", "completed_at"}:
            _require_order(self.started_at, self.completed_at)

    def save(self, force_insert: bool = False, only: Iterable[Any] | None = None) -> int:
        before = self.stored_status if self._pk is not None and "status" in self._dirty else None
        written = super().save(force_insert, only)
        if before is not None and "status" not in self._dirty:
            self.forget_claim_if_pending()
            log_after_commit(self._meta.database, self.id, before, self.status)
        return written

    def update_condition(self) -> Row:
        """A changed status goes with the status that was loaded, and with the claim that holds the job, if any."""
        stored = super().update_condition()
        if "status" not in self._dirty or self.stored_status is None:
            return stored
        stored[type(self).status] = self.stored_status
        is_held = self.worker is not None and not self._dirty & {"worker", "attempt"}
        return {**stored, **self.fence()} if self.claim_token or is_held else stored

    def why_not_updated(self) -> Exception:
        if type(self).get_or_none(type(self).id == self.id) is None:
            return super().why_not_updated()
        return self.why_not_written(self.stored_status if "status" in self._dirty else None)

    @classmethod
    def derived(cls, row: Row, *, creating: bool) -> Row:
        """The row with the times and the lease that follow from a new status, where the caller left them out."""
        row = super().derived(row, creating=creating)
        status = row.get(cls.status)
        if not isinstance(status, JobStatus):
            return row
        if creating:
            return born(cls, status, row)
        if status is JobStatus.PENDING:
            return {**requeued(cls), **row}
        return entered(cls, status, row)


def _require_video(path: Any) -> None:
    if path is None:
        raise ValidationError(
            "a completed job needs s3_video_path", field="s3_video_path", rule="completed_jobs_have_video"
        )


def _require_order(start: Any, end: Any) -> None:
    if isinstance(start, datetime) and isinstance(end, datetime) and end < start:
        raise ValidationError(
            "completed_at must not lie before started_at", field="completed_at", rule="valid_completion_time"
        )


def _index(*columns: Any, name: str, **options: Any) -> None:
    PresentationJob.add_index(PresentationJob.index(*columns, name=name, **options))


_index(PresentationJob.status, name="idx_presentation_jobs_status")
# Few rows, which are counted with all others in the index on the status, and then subtracted.
_index(PresentationJob.status, where=PresentationJob.deleted_at.is_null(False), name="idx_presentation_jobs_deleted")
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
