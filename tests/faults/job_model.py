"""What the life cycle promises of a job, in plain Python: the model that the state machine holds against a database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from presgen import InvalidTransition, JobCancelled, JobStatus, LeaseLost, PresentationJob
from presgen.clock import BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS
from presgen.errors import ConstraintViolation
from presgen.models.reapable import LEASE_EXPIRED
from presgen.status import RUNNING

Event = tuple[JobStatus, JobStatus, str | None, int]
Refusal = type[Exception] | None
"""The error that a verb has to raise, None when it has to succeed."""


@dataclass(frozen=True)
class Soon:
    """A moment that the database chooses between a statement's start and its end, plus low to high seconds."""

    since: datetime
    low_seconds: float
    high_seconds: float

    def agrees_with(self, moment: datetime | None, *, until: datetime) -> bool:
        # SQLite rounds a computed backoff to milliseconds.
        rounding = timedelta(milliseconds=2)
        earliest = self.since + timedelta(seconds=self.low_seconds) - rounding
        return moment is not None and earliest <= moment <= until + timedelta(seconds=self.high_seconds) + rounding


Moment = datetime | Soon | None


@dataclass
class Row:
    """A job as the database has to have it."""

    id: int
    priority: int
    max_attempts: int
    key: str | None
    run_at: Moment
    status: JobStatus = JobStatus.PENDING
    worker: str | None = None
    attempt: int = 0
    lease: Moment = None
    asked_to_cancel: bool = False
    progress: float = 0.0
    checkpoint: Any = None
    slides: int | None = None
    video: str | None = None
    error: str | None = None
    has_started: bool = False
    has_ended: bool = False
    is_deleted: bool = False
    events: list[Event] = field(default_factory=list)

    @property
    def is_unfinished(self) -> bool:
        return not self.status.is_finished

    @property
    def stage_reached(self) -> JobStatus:
        """Where a claim takes the job up: the running stage that it entered last."""
        entered = [to for _, to, _, _ in self.events if to.is_running]
        return entered[-1] if entered else JobStatus.PROCESSING_SLIDES

    def become(self, status: JobStatus, *, held_by: str | None) -> None:
        self.events.append((self.status, status, held_by, self.attempt))
        self.status = status

    def enter(self, status: JobStatus) -> None:
        self.has_started |= status.is_running or status is JobStatus.COMPLETED
        if status.is_finished:
            self.lease, self.has_ended = None, True
        self.become(status, held_by=self.worker)

    def requeue(self, *, max_attempts: int | None = None) -> None:
        if max_attempts is None:
            max_attempts = self.attempt + 1 if self.attempt >= self.max_attempts else self.max_attempts
        self.become(JobStatus.PENDING, held_by=self.worker)
        self.max_attempts, self.worker, self.lease = max_attempts, None, None
        self.asked_to_cancel = self.has_started = self.has_ended = False
        self.progress = 0.0

    def pause(self, now: datetime) -> None:
        longest = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** (max(self.attempt, 1) - 1))
        self.run_at = Soon(now, longest / 2, longest)


@dataclass
class Hand:
    """An instance that was given out once, and what it shows; it may have been stale for long."""

    job: PresentationJob
    status: JobStatus
    worker: str | None
    attempt: int
    max_attempts: int
    resumed_at: JobStatus | None = None
    lease_seconds: float = 60.0
    token: tuple[str | None, int] | None = None
    """The claim that gave it out, whatever it shows since."""

    @classmethod
    def of(cls, job: PresentationJob, row: Row, **claim: Any) -> Hand:
        return cls(job, row.status, row.worker, row.attempt, row.max_attempts, **claim)

    def see(self, row: Row) -> None:
        self.status, self.worker, self.attempt, self.max_attempts = (
            row.status,
            row.worker,
            row.attempt,
            row.max_attempts,
        )

    @property
    def holder(self) -> tuple[str | None, int]:
        return self.token or (self.worker, self.attempt)

    def wrote(self, row: Row) -> None:
        """See a row that it has written itself; back in the queue, it is nobody's."""
        self.see(row)
        if row.status is JobStatus.PENDING:
            self.token = None

    def agrees_with_its_job(self) -> bool:
        shown = self.job
        return (shown.status, shown.worker, shown.attempt) == (self.status, self.worker, self.attempt)


class Queue:
    """All jobs, and the verbs on them. A verb changes the rows and says what it has to raise."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}

    # Anybody's verbs

    def twin_of(self, key: str | None) -> Row | None:
        """The unfinished job that has the idempotency key."""
        return next(
            (row for row in self.rows.values() if key is not None and row.key == key and row.is_unfinished), None
        )

    def cancel(self, hand: Hand) -> Refusal:
        row = self.rows.get(hand.job.id)
        if row is None:
            return PresentationJob.DoesNotExist
        if row.status in (JobStatus.COMPLETED, JobStatus.FAILED):
            return InvalidTransition
        if row.is_unfinished:
            row.asked_to_cancel = True
            if row.worker is None:
                row.enter(JobStatus.CANCELLED)
        hand.see(row)
        return None

    def retry(self, hand: Hand, now: datetime) -> Refusal:
        row = self.rows.get(hand.job.id)
        if row is None:
            return PresentationJob.DoesNotExist
        if row.status in (JobStatus.FAILED, JobStatus.CANCELLED) and not row.is_deleted:
            if self.twin_of(row.key):
                return ConstraintViolation
            row.requeue()
            row.run_at = Soon(now, 0, 0)
        elif row.status is not JobStatus.PENDING:
            return InvalidTransition
        hand.see(row)
        return None

    def reap(self, now: datetime) -> int:
        lost = [row for row in self.rows.values() if row.status.is_running and has_passed(row.lease, now)]
        for row in lost:
            if row.asked_to_cancel:
                row.enter(JobStatus.CANCELLED)
                continue
            row.error = LEASE_EXPIRED
            if row.attempt >= row.max_attempts:
                row.enter(JobStatus.FAILED)
            else:
                row.requeue()
                row.pause(now)
        return len(lost)

    def claim(self, worker: str, limit: int, lease: float, now: datetime) -> list[Row]:
        self.reap(now)
        due = [
            row
            for row in self.rows.values()
            if row.status is JobStatus.PENDING
            and has_passed(row.run_at, now)
            and row.attempt < row.max_attempts
            and not row.is_deleted
        ]
        taken = sorted(due, key=lambda row: (-row.priority, row.run_at, row.id))[:limit]
        for row in taken:
            row.worker, row.attempt, row.lease = worker, row.attempt + 1, Soon(now, lease, lease)
            row.progress, row.has_started = 0.0, True
            row.become(row.stage_reached, held_by=worker)
        return taken

    # A worker's verbs

    def advance(self, hand: Hand, target: JobStatus, slides: int, now: datetime) -> Refusal:
        resumed = hand.resumed_at if hand.status is hand.resumed_at else None
        stays = resumed and target.is_running and RUNNING.index(target) <= RUNNING.index(resumed)
        if not stays and (not target.is_running or not may_become(hand.status, target)):
            return InvalidTransition
        row, refusal = self._written_by(hand)
        if row is not None and (refusal is None or self._may_record(hand, row, refusal)):
            row.slides = slides
            self._extend(hand, row, now)
        if row is not None and refusal is None and not stays:
            row.enter(target)
            hand.wrote(row)
        return refusal

    def heartbeat(self, hand: Hand, progress: float | None, checkpoint: Any, now: datetime) -> Refusal:
        row = self._held(hand)
        if row is None or not row.status.is_running:
            return self._why_not(hand)
        row.progress = row.progress if progress is None else progress
        row.checkpoint = row.checkpoint if checkpoint is None else checkpoint
        self._extend(hand, row, now)
        return JobCancelled if row.asked_to_cancel else None

    def complete(self, hand: Hand, video: str, now: datetime) -> Refusal:
        if not may_become(hand.status, JobStatus.COMPLETED):
            return InvalidTransition
        row, refusal = self._written_by(hand)
        if row is not None and (refusal is None or self._may_record(hand, row, refusal)):
            row.video = video
            self._extend(hand, row, now)
        if row is not None and refusal is None:
            row.progress, row.error = 1.0, None
            row.enter(JobStatus.COMPLETED)
            hand.see(row)
        return refusal

    def fail(self, hand: Hand, message: str, *, retry: bool, now: datetime) -> Refusal:
        comes_back = retry and hand.attempt < hand.max_attempts and hand.status.is_running
        if not comes_back and not may_become(hand.status, JobStatus.FAILED):
            return InvalidTransition
        row, refusal = self._written_by(hand)
        if row is not None and refusal is None:
            row.error = message
            if comes_back:
                row.requeue()
                row.pause(now)
            else:
                row.enter(JobStatus.FAILED)
            hand.wrote(row)
        return refusal

    def release(self, hand: Hand) -> Refusal:
        if not hand.status.is_running:
            return InvalidTransition
        row, refusal = self._written_by(hand)
        if row is not None and refusal is None:
            row.requeue(max_attempts=row.max_attempts + 1)
            hand.wrote(row)
        return refusal

    def acknowledge_cancellation(self, hand: Hand) -> Refusal:
        if not may_become(hand.status, JobStatus.CANCELLED):
            return InvalidTransition
        row, refusal = self._written_by(hand, cancelled=True)
        if row is not None and row.status.is_running and not row.asked_to_cancel and self._shows(hand, row):
            return InvalidTransition
        if row is not None and refusal is None:
            row.enter(JobStatus.CANCELLED)
            hand.see(row)
        return refusal

    def save(self, hand: Hand, status: JobStatus, video: str) -> Refusal:
        """A plain save() of a new status, with a video."""
        if not may_become(hand.status, status):
            return InvalidTransition
        row = self.rows.get(hand.job.id)
        if row is None:
            return PresentationJob.DoesNotExist
        is_held = (hand.token is None and hand.worker is None) or self._held(hand) is not None
        if row.status is not hand.status or not is_held:
            return self._why_not(hand)
        if status is JobStatus.PENDING and row.status.is_finished and self.twin_of(row.key):
            return ConstraintViolation
        row.video = video
        if status is JobStatus.PENDING:
            row.requeue()
            hand.worker, hand.max_attempts, hand.token = row.worker, row.max_attempts, None
        else:
            row.enter(status)
        hand.status = status  # a save() shows what it has written, and not the attempt that others have raised
        return None

    def _held(self, hand: Hand) -> Row | None:
        """The row, if the fence lets the instance write it."""
        row = self.rows.get(hand.job.id)
        return row if row is not None and (row.worker, row.attempt) == hand.holder else None

    def _shows(self, hand: Hand, row: Row) -> bool:
        return self._held(hand) is row and hand.status is row.status

    def _written_by(self, hand: Hand, *, cancelled: bool = False) -> tuple[Row | None, Refusal]:
        row = self._held(hand)
        if row is None or row.status is not hand.status or row.asked_to_cancel is not cancelled:
            return row, self._why_not(hand)
        return row, None

    def _why_not(self, hand: Hand) -> Refusal:
        row = self.rows.get(hand.job.id)
        is_cancelled = row is not None and (
            row.status is JobStatus.CANCELLED or (row.status.is_running and row.asked_to_cancel)
        )
        return JobCancelled if is_cancelled else LeaseLost

    def _may_record(self, hand: Hand, row: Row, refusal: Refusal) -> bool:
        """Whether what was measured is kept although the job was cancelled."""
        return refusal is JobCancelled and row.status.is_running

    def _extend(self, hand: Hand, row: Row, now: datetime) -> None:
        if hand.holder[0] is not None:
            row.lease = Soon(now, hand.lease_seconds, hand.lease_seconds)


def may_become(before: JobStatus, after: JobStatus) -> bool:
    return after is not before and before.can_become(after)


def has_passed(moment: Moment, now: datetime) -> bool:
    return isinstance(moment, datetime) and moment < now


def in_between(rows: Iterable[Row], since: datetime, until: datetime) -> bool:
    """Whether something fell due while a statement ran: then nobody can say what it saw."""
    moments = [moment for row in rows for moment in (row.lease, row.run_at)]
    return any(isinstance(moment, datetime) and since <= moment <= until for moment in moments)
