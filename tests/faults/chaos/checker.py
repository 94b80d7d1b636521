"""check(): compares what processes were told with the jobs and the events that the database holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from presgen.status import FINISHED, TRANSITIONS, JobStatus

from .evidence import Evidence, StoredEvent, StoredJob
from .history import BEGUN, REFUSED, TOLD, Entry

POISON: Final = "poison"
"""How the tokens of jobs begin that kill every worker that takes them."""

# Where a verb that returned has taken the job; those of advance() are its own.
_ENDS: Final = {
    "complete": (JobStatus.COMPLETED,),
    "fail": (JobStatus.PENDING, JobStatus.FAILED),
    "release": (JobStatus.PENDING,),
    "acknowledge_cancellation": (JobStatus.CANCELLED,),
}


class Kind(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    DONE_TWICE = "done twice"
    ACKNOWLEDGED_BUT_LOST = "acknowledged but lost"
    LIVE_LEASE = "claimed during a live lease"
    HELD_BY_TWO = "held by two"
    ATTEMPT_GAP = "attempt gap"
    UNRECORDED_CLAIM = "claim without its event"
    UNCAPPED = "attempts not capped"
    BROKEN_CHAIN = "events that do not follow each other"
    WRONG_END = "wrong end"
    MISINFORMED = "told of a loss that was none"
    CRASHED = "worker crashed"


@dataclass(frozen=True)
class Violation:
    """One thing that must not be."""

    kind: Kind
    subject: int | str | None
    """The job's id, or the token or the process where there is no job."""
    text: str


def check(entries: Sequence[Entry], jobs: Iterable[StoredJob], events: Iterable[StoredEvent]) -> list[Violation]:
    """Everything that is wrong, rule by rule; an empty list when the module has kept its word."""
    evidence = Evidence(entries, jobs, events)
    found = list(_enqueued_jobs_are_there(evidence))
    known = sorted({*evidence.jobs, *evidence.entries, *evidence.events})
    return found + [violation for job in known for rule in _RULES for violation in rule(evidence, job)]


def _enqueued_jobs_are_there(evidence: Evidence) -> Iterator[Violation]:
    stored: dict[str, list[int]] = defaultdict(list)
    for job in evidence.jobs.values():
        stored[job.token].append(job.id)
    for token in evidence.enqueued:
        if token not in stored:
            yield Violation(Kind.LOST, token, "its enqueue() returned, and there is no such job")
    for token, ids in stored.items():
        if len(ids) > 1:
            yield Violation(Kind.DONE_TWICE, token, f"is enqueued as the jobs {ids}")


def _jobs_end_as_they_should(evidence: Evidence, job: int) -> Iterator[Violation]:
    stored = evidence.jobs.get(job)
    if stored is None:
        yield Violation(Kind.LOST, job, "a worker had it, and there is no such job")
    elif stored.status not in FINISHED:
        yield Violation(Kind.LOST, job, f"is {stored.status} for ever, at attempt {stored.attempt}")
    elif stored.token.startswith(POISON):
        told = stored.status, stored.attempt, bool(stored.error_message)
        if told != (JobStatus.FAILED, stored.max_attempts, True):
            yield Violation(Kind.WRONG_END, job, f"kills its workers, and is {stored}")
    elif stored.status == JobStatus.FAILED:
        yield Violation(Kind.WRONG_END, job, f"has failed at attempt {stored.attempt} of {stored.max_attempts}")
    elif stored.status == JobStatus.CANCELLED and not evidence.calls(job, BEGUN, "cancel"):
        yield Violation(Kind.WRONG_END, job, "is cancelled, and nobody asked for that")


def _jobs_are_completed_once(evidence: Evidence, job: int) -> Iterator[Violation]:
    told = [(entry.session, entry.attempt) for entry in evidence.calls(job, TOLD, "complete")]
    if len(told) > 1:
        yield Violation(Kind.DONE_TWICE, job, f"was completed for each of {told}")
    events = [event.id for event in evidence.events[job] if event.after == JobStatus.COMPLETED]
    if len(events) > 1:
        yield Violation(Kind.DONE_TWICE, job, f"became completed at the events {events}")


def _what_was_told_is_so(evidence: Evidence, job: int) -> Iterator[Violation]:
    stored = evidence.jobs.get(job)
    for call in evidence.calls(job, TOLD):
        has_moved = call.verb == "advance" and call.before != call.after
        ends = (str(call.after),) if has_moved else _ENDS.get(call.verb, ())
        if ends and evidence.recorded(call, *ends) is None:
            text = f"{call.verb}() at attempt {call.attempt} returned to {call.session}, and no event says so"
            yield Violation(Kind.ACKNOWLEDGED_BUT_LOST, job, text)
        if stored is None:
            continue
        if call.verb == "complete" and (stored.status, stored.video) != (JobStatus.COMPLETED, call.video):
            text = f"complete() returned for {call.video}; the job is {stored.status} with {stored.video}"
            yield Violation(Kind.ACKNOWLEDGED_BUT_LOST, job, text)
        if call.verb == "cancel" and stored.status != JobStatus.CANCELLED:
            yield Violation(Kind.ACKNOWLEDGED_BUT_LOST, job, f"cancel() returned, and the job is {stored.status}")


def _checkpoints_survive(evidence: Evidence, job: int) -> Iterator[Violation]:
    """A claim, and the end, show the newest checkpoint that an earlier attempt was told is stored, or a newer one."""
    stored = evidence.jobs.get(job)
    kept = [call for call in evidence.calls(job, TOLD, "advance", "heartbeat") if call.checkpoint is not None]
    seen = [(call.attempt, call.checkpoint) for call in evidence.calls(job, TOLD, "claim")]
    if stored is not None:
        seen.append((None, stored.checkpoint))
    for attempt, checkpoint in seen:
        newest = max(
            (_age(call.checkpoint) for call in kept if attempt is None or _is_before(call, attempt)), default=()
        )
        if _age(checkpoint) < newest:
            text = f"a checkpoint {newest} was stored; attempt {attempt or 'none'} finds {checkpoint}"
            yield Violation(Kind.ACKNOWLEDGED_BUT_LOST, job, text)


def _age(checkpoint: dict[str, int] | None) -> tuple[int, ...]:
    return () if checkpoint is None else (checkpoint["attempt"], checkpoint["step"])


def _is_before(call: Entry, attempt: int) -> bool:
    return call.attempt is not None and call.attempt < attempt


def _losses_are_true(evidence: Evidence, job: int) -> Iterator[Violation]:
    """LeaseLost and JobCancelled mean that nothing was written: not that a repeated write found what the first had done."""
    for call in evidence.calls(job, REFUSED, "complete"):
        if call.error in ("LeaseLost", "JobCancelled") and evidence.recorded(call, JobStatus.COMPLETED) is not None:
            text = f"complete() told {call.session} that attempt {call.attempt} was lost, and it is the one that counts"
            yield Violation(Kind.MISINFORMED, job, text)


def _leases_are_kept(evidence: Evidence, job: int) -> Iterator[Violation]:
    """Nobody takes a job from a worker that was told that it has it, unless that worker lets it go."""
    for lease in evidence.leases(job):
        assert lease.lease is not None
        if evidence.gave_up(job, lease.attempt):
            continue
        taken = [event for event in evidence.events[job] if event.is_let_go and event.attempt == lease.attempt]
        for event in taken:
            if event.at <= lease.lease:
                text = f"went to {event.after} at {event.at}; {lease.session} had it until {lease.lease}"
                yield Violation(Kind.LIVE_LEASE, job, text)
        for claim in evidence.calls(job, TOLD, "claim"):
            is_later = claim.attempt is not None and lease.attempt is not None and claim.attempt > lease.attempt
            if is_later and claim.at is not None and claim.at <= lease.lease:
                text = f"was claimed by {claim.session} at {claim.at}; {lease.session} had it until {lease.lease}"
                yield Violation(Kind.LIVE_LEASE, job, text)


def _an_attempt_has_one_holder(evidence: Evidence, job: int) -> Iterator[Violation]:
    holders: dict[int | None, list[str]] = defaultdict(list)
    for claim in evidence.calls(job, TOLD, "claim"):
        holders[claim.attempt].append(claim.session)
    for attempt, sessions in holders.items():
        if len(sessions) > 1:
            yield Violation(Kind.HELD_BY_TWO, job, f"was given to each of {sessions} as attempt {attempt}")


def _attempts_count_up(evidence: Evidence, job: int) -> Iterator[Violation]:
    attempts = [event.attempt for event in evidence.events[job] if event.is_claim]
    if attempts != list(range(1, len(attempts) + 1)):
        yield Violation(Kind.ATTEMPT_GAP, job, f"was claimed as attempts {attempts}")
    stored = evidence.jobs.get(job)
    if stored is not None and stored.attempt != len(attempts):
        yield Violation(Kind.ATTEMPT_GAP, job, f"has attempt {stored.attempt} after {len(attempts)} claims")


def _claims_have_their_event(evidence: Evidence, job: int) -> Iterator[Violation]:
    made = {(event.attempt, event.worker, event.after, event.at) for event in evidence.events[job] if event.is_claim}
    for claim in evidence.calls(job, TOLD, "claim"):
        if (claim.attempt, claim.worker, claim.after, claim.at) not in made:
            text = f"attempt {claim.attempt} was given to {claim.session}, and no event says so"
            yield Violation(Kind.UNRECORDED_CLAIM, job, text)


def _attempts_are_capped(evidence: Evidence, job: int) -> Iterator[Violation]:
    """A release alone raises the cap, by the one attempt that it gives back."""
    stored = evidence.jobs.get(job)
    first = evidence.enqueued.get(stored.token) if stored is not None else None
    if stored is None or first is None or first.max_attempts is None:
        return
    told, begun = (len(evidence.calls(job, phase, "release")) for phase in (TOLD, BEGUN))
    if not first.max_attempts + told <= stored.max_attempts <= first.max_attempts + begun:
        text = f"may have {stored.max_attempts} attempts, after {first.max_attempts} and {told} to {begun} releases"
        yield Violation(Kind.UNCAPPED, job, text)
    if stored.attempt > stored.max_attempts:
        yield Violation(Kind.UNCAPPED, job, f"is at attempt {stored.attempt} of {stored.max_attempts}")


def _events_follow_each_other(evidence: Evidence, job: int) -> Iterator[Violation]:
    status: Any = JobStatus.PENDING
    for event in evidence.events[job]:
        if event.before != status or event.after not in TRANSITIONS[JobStatus(event.before)]:
            text = f"event {event.id} goes from {event.before} to {event.after}, when the job was {status}"
            yield Violation(Kind.BROKEN_CHAIN, job, text)
        status = event.after
    stored = evidence.jobs.get(job)
    if stored is not None and stored.status != status:
        yield Violation(Kind.BROKEN_CHAIN, job, f"is {stored.status}, and its last event says {status}")


_RULES: Final[tuple[Callable[[Evidence, int], Iterator[Violation]], ...]] = (
    _jobs_end_as_they_should,
    _jobs_are_completed_once,
    _what_was_told_is_so,
    _checkpoints_survive,
    _losses_are_true,
    _leases_are_kept,
    _an_attempt_has_one_holder,
    _attempts_count_up,
    _claims_have_their_event,
    _attempts_are_capped,
    _events_follow_each_other,
)
