"""Evidence: what processes were told, and what the database holds, by job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from presgen.status import RUNNING, JobStatus

from .history import BEGUN, REFUSED, TOLD, Entry

_GIVING_UP: Final = ("fail", "release", "acknowledge_cancellation")
_NOTHING_WRITTEN: Final = ("LeaseLost", "JobCancelled", "InvalidTransition")


@dataclass(frozen=True, kw_only=True)
class StoredJob:
    """A job as the database holds it at the end."""

    id: int
    token: str
    status: str
    attempt: int
    max_attempts: int
    error_message: str | None = None
    video: str | None = None
    checkpoint: dict[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class StoredEvent:
    """A row of job_events."""

    id: int
    job: int
    before: str
    after: str
    at: datetime
    worker: str | None
    attempt: int

    @property
    def is_claim(self) -> bool:
        """Whether a job came into a worker's hand."""
        return self.before == JobStatus.PENDING and self.after in RUNNING

    @property
    def is_let_go(self) -> bool:
        """Whether a running job went back to the queue, or ended without being completed."""
        return self.before in RUNNING and self.after not in (*RUNNING, JobStatus.COMPLETED)


class Evidence:
    """Everything that is known, by job."""

    def __init__(self, entries: Sequence[Entry], jobs: Iterable[StoredJob], events: Iterable[StoredEvent]) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.entries: dict[int, list[Entry]] = defaultdict(list)
        self.events: dict[int, list[StoredEvent]] = defaultdict(list)
        self.enqueued = {entry.token: entry for entry in entries if (entry.verb, entry.phase) == ("enqueue", TOLD)}
        for entry in entries:
            if entry.job is not None and entry.verb != "enqueue":
                self.entries[entry.job].append(entry)
        for event in sorted(events, key=lambda event: event.id):
            self.events[event.job].append(event)

    def calls(self, job: int, phase: str, *verbs: str) -> list[Entry]:
        """The entries of a job with that phase, of those verbs or of all."""
        return [entry for entry in self.entries[job] if entry.phase == phase and (not verbs or entry.verb in verbs)]

    def gave_up(self, job: int, attempt: int | None) -> bool:
        """Whether the attempt's worker may have let the job go by itself: has begun to, and was not refused."""
        refused = {(entry.session, entry.call) for entry in self.calls(job, REFUSED) if entry.error in _NOTHING_WRITTEN}
        begun = (entry for entry in self.calls(job, BEGUN, *_GIVING_UP) if entry.attempt == attempt)
        return any((entry.session, entry.call) not in refused for entry in begun)

    def leases(self, job: int) -> list[Entry]:
        """The entries that told a worker until when it has the job; a lease that was cut short counts no more."""
        told: list[Entry] = []
        for entry in self.entries[job]:
            if entry.verb == "boundary" and entry.phase == BEGUN:
                told = [lease for lease in told if (lease.session, lease.attempt) != (entry.session, entry.attempt)]
            elif entry.phase == TOLD and entry.lease is not None:
                told.append(entry)
        return told

    def recorded(self, call: Entry, *ends: str) -> StoredEvent | None:
        """The event by which the call's attempt of its worker came to one of those statuses."""
        assert call.job is not None
        made = (
            event
            for event in self.events[call.job]
            if (event.attempt, event.worker) == (call.attempt, call.worker) and event.after in ends
        )
        return next(made, None)
