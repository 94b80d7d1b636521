"""The checker: a history without fault, and one deliberate fault for each of its rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from chaos.checker import Kind, check
from chaos.evidence import StoredEvent, StoredJob
from chaos.history import BEGUN, REFUSED, TOLD, Entry, read_histories

_MIDNIGHT = datetime(2025, 1, 1, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return _MIDNIGHT + timedelta(seconds=seconds)


@dataclass
class Case:
    """Attempt 1 of w1 expires at 10 s and is rescued at 11; attempt 2 of w2, from 12 s, completes the job."""

    entries: list[Entry] = field(default_factory=list)
    jobs: list[StoredJob] = field(default_factory=list)
    events: list[StoredEvent] = field(default_factory=list)

    def kinds(self) -> set[Kind]:
        return {violation.kind for violation in check(self.entries, self.jobs, self.events)}

    def tell(self, verb: str, attempt: int, phase: str = TOLD, **facts: Any) -> None:
        worker = f"w{attempt}"
        self.entries.append(
            Entry(
                **{
                    "session": f"{worker}-9",
                    "worker": worker,
                    "verb": verb,
                    "phase": phase,
                    "job": 1,
                    "attempt": attempt,
                    **facts,
                }
            )
        )

    def record(self, before: str, after: str, seconds: float, attempt: int, **facts: Any) -> None:
        event = StoredEvent(
            id=len(self.events) + 1,
            job=1,
            before=before,
            after=after,
            at=at(seconds),
            worker=f"w{attempt}",
            attempt=attempt,
        )
        self.events.append(replace(event, **facts))

    def change(self, index: int, **facts: Any) -> None:
        self.entries[index] = replace(self.entries[index], **facts)

    def change_job(self, **facts: Any) -> None:
        self.jobs[0] = replace(self.jobs[0], **facts)

    def change_event(self, index: int, **facts: Any) -> None:
        self.events[index] = replace(self.events[index], **facts)


@pytest.fixture
def case() -> Case:
    case = Case()
    case.entries.append(Entry(verb="enqueue", phase=TOLD, session="producer-9", token="a", max_attempts=3))
    case.tell("claim", 1, token="a", at=at(0), lease=at(10), after="processing_slides")
    case.tell("claim", 2, token="a", at=at(12), lease=at(22), after="processing_slides", checkpoint=None)
    case.tell("complete", 2, before="processing_slides", after="completed", video="/a-2.mp4")
    case.record("pending", "processing_slides", 0, 1)
    case.record("processing_slides", "pending", 11, 1)
    case.record("pending", "processing_slides", 12, 2)
    case.record("processing_slides", "completed", 13, 2)
    case.jobs.append(StoredJob(id=1, token="a", status="completed", attempt=2, max_attempts=3, video="/a-2.mp4"))
    return case


def test_a_history_without_fault_is_accepted(case: Case) -> None:
    case.tell("heartbeat", 1, REFUSED, error="CommitUnknown")
    case.tell("complete", 1, REFUSED, error="LeaseLost")
    assert case.kinds() == set()


def without_its_job(case: Case) -> None:
    case.jobs.clear()


def unfinished(case: Case) -> None:
    case.events.pop()
    case.entries.pop()
    case.change_job(status="processing_slides")


def never_enqueued_though_acknowledged(case: Case) -> None:
    case.entries.append(Entry(verb="enqueue", phase=TOLD, token="b", max_attempts=3))


def enqueued_twice(case: Case) -> None:
    case.jobs.append(StoredJob(id=2, token="a", status="cancelled", attempt=0, max_attempts=3))


def completed_by_two(case: Case) -> None:
    case.tell("complete", 1, before="processing_slides", after="completed", video="/a-2.mp4")


def completed_again(case: Case) -> None:
    case.record("completed", "completed", 14, 2)


def completed_for_another_attempt(case: Case) -> None:
    case.entries.pop()
    case.tell("complete", 1, before="processing_slides", after="completed", video="/a-2.mp4")


def completed_with_another_video(case: Case) -> None:
    case.change_job(video="/a-1.mp4")


def advanced_without_an_event(case: Case) -> None:
    case.tell("advance", 2, before="processing_slides", after="synthesizing_audio")


def released_without_an_event(case: Case) -> None:
    case.entries.pop(1)
    case.tell("release", 3, BEGUN)
    case.tell("release", 3)
    case.change_job(max_attempts=4)


def cancelled_in_vain(case: Case) -> None:
    case.tell("cancel", 2, BEGUN)
    case.tell("cancel", 2)


def checkpoint_forgotten(case: Case) -> None:
    case.tell("heartbeat", 1, checkpoint={"attempt": 1, "step": 1})
    case.change_job(checkpoint={"attempt": 1, "step": 1})


def checkpoint_gone_at_the_end(case: Case) -> None:
    case.tell("heartbeat", 2, checkpoint={"attempt": 2, "step": 1})


def rescued_before_the_lease_was_over(case: Case) -> None:
    case.change_event(1, at=at(9))


def rescued_at_the_boundary(case: Case) -> None:
    case.tell("boundary", 1, BEGUN)
    case.tell("boundary", 1, lease=at(5))
    case.change_event(1, at=at(5))


def rescued_during_a_heartbeat_s_lease(case: Case) -> None:
    case.tell("heartbeat", 1, lease=at(11.5))


def claimed_from_a_holder(case: Case) -> None:
    """What two claims without row locks do: the second raises the attempt, and no status changes."""
    del case.events[1:3]
    case.change_event(1, id=2)
    case.change(2, at=at(1))


def rescued_after_a_refusal(case: Case) -> None:
    """A fail() that was refused has not let the job go."""
    case.tell("fail", 1, BEGUN, call=7)
    case.tell("fail", 1, REFUSED, call=7, error="LeaseLost")
    case.change_event(1, at=at(9))


def given_to_two(case: Case) -> None:
    case.change(2, attempt=1, session="w1-10", worker="w1", at=at(0))


def skipping_an_attempt(case: Case) -> None:
    for index in (2, 3):
        case.change_event(index, attempt=3)
        case.change(index, attempt=3)
    case.change_job(attempt=3)


def attempt_not_counted(case: Case) -> None:
    case.change_job(attempt=1)


def claim_without_its_event(case: Case) -> None:
    case.change(2, worker="w3")


def more_attempts_than_allowed(case: Case) -> None:
    case.change_job(max_attempts=4)


def released_without_giving_the_attempt_back(case: Case) -> None:
    case.tell("release", 1, BEGUN)
    case.tell("release", 1, before="processing_slides", after="pending")


def jumping_status(case: Case) -> None:
    case.change_event(3, before="assembling_video")


def illegal_transition(case: Case) -> None:
    case.record("completed", "pending", 14, 2)
    case.record("pending", "completed", 15, 2)


def status_without_an_event(case: Case) -> None:
    case.change_job(status="cancelled")


def failed_with_attempts_left(case: Case) -> None:
    case.entries.pop()
    case.change_event(3, after="failed")
    case.change_job(status="failed")


def cancelled_unasked(case: Case) -> None:
    case.entries.pop()
    case.change_event(3, after="cancelled")
    case.change_job(status="cancelled")


def poison_that_is_completed(case: Case) -> None:
    case.change_job(token="poison-1")


def told_of_a_loss_that_was_none(case: Case) -> None:
    case.entries.pop()
    case.tell("complete", 2, REFUSED, error="LeaseLost")


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (without_its_job, Kind.LOST),
        (unfinished, Kind.LOST),
        (never_enqueued_though_acknowledged, Kind.LOST),
        (enqueued_twice, Kind.DONE_TWICE),
        (completed_by_two, Kind.DONE_TWICE),
        (completed_again, Kind.DONE_TWICE),
        (completed_for_another_attempt, Kind.ACKNOWLEDGED_BUT_LOST),
        (completed_with_another_video, Kind.ACKNOWLEDGED_BUT_LOST),
        (advanced_without_an_event, Kind.ACKNOWLEDGED_BUT_LOST),
        (released_without_an_event, Kind.ACKNOWLEDGED_BUT_LOST),
        (cancelled_in_vain, Kind.ACKNOWLEDGED_BUT_LOST),
        (checkpoint_forgotten, Kind.ACKNOWLEDGED_BUT_LOST),
        (checkpoint_gone_at_the_end, Kind.ACKNOWLEDGED_BUT_LOST),
        (rescued_before_the_lease_was_over, Kind.LIVE_LEASE),
        (rescued_at_the_boundary, Kind.LIVE_LEASE),
        (rescued_during_a_heartbeat_s_lease, Kind.LIVE_LEASE),
        (claimed_from_a_holder, Kind.LIVE_LEASE),
        (rescued_after_a_refusal, Kind.LIVE_LEASE),
        (given_to_two, Kind.HELD_BY_TWO),
        (skipping_an_attempt, Kind.ATTEMPT_GAP),
        (attempt_not_counted, Kind.ATTEMPT_GAP),
        (claim_without_its_event, Kind.UNRECORDED_CLAIM),
        (more_attempts_than_allowed, Kind.UNCAPPED),
        (released_without_giving_the_attempt_back, Kind.UNCAPPED),
        (jumping_status, Kind.BROKEN_CHAIN),
        (illegal_transition, Kind.BROKEN_CHAIN),
        (status_without_an_event, Kind.BROKEN_CHAIN),
        (failed_with_attempts_left, Kind.WRONG_END),
        (cancelled_unasked, Kind.WRONG_END),
        (poison_that_is_completed, Kind.WRONG_END),
        (told_of_a_loss_that_was_none, Kind.MISINFORMED),
    ],
)
def test_a_history_with_a_fault_is_refused(case: Case, spoil: Callable[[Case], None], kind: Kind) -> None:
    spoil(case)
    assert kind in case.kinds()


def test_a_lease_that_the_probe_cut_short_counts_no_more(case: Case) -> None:
    case.tell("boundary", 1, BEGUN)
    case.tell("boundary", 1, lease=at(5))
    case.change_event(1, at=at(5.1))
    assert case.kinds() == set()


def test_a_worker_may_let_a_job_go_before_its_lease_is_over(case: Case) -> None:
    case.tell("fail", 1, BEGUN)
    case.change_event(1, at=at(9))
    assert case.kinds() == set()


def test_a_line_that_a_kill_or_a_write_leaves_open_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "w1-9.jsonl").write_text('{"verb": "claim", "phase": "told", "job": 1}\n{"verb": "comp')
    assert read_histories(tmp_path) == [Entry(session="w1-9", verb="claim", phase=TOLD, job=1)]
