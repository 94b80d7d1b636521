"""The life of a job, verb by verb."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import Any

import peewee as pw
import pytest
from fixtures.rows import Enqueue, stored

from presgen import (
    DatabaseManager,
    InvalidTransition,
    JobCancelled,
    JobStatus,
    LeaseLost,
    PresentationJob,
    User,
    ValidationError,
    VoiceClone,
)
from presgen.clock import BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS
from presgen.errors import ConstraintViolation, DatabaseBusy
from presgen.models.reapable import REAP_LIMIT
from presgen.validation import LONG_TEXT_MAX


def assert_shown_is_stored(job: PresentationJob) -> None:
    assert job.__data__ == stored(job).__data__
    assert not job.is_dirty()


def expire_leases() -> None:
    past = datetime.now(timezone.utc) - timedelta(minutes=1)
    PresentationJob.update(lease_expires_at=past).where(PresentationJob.worker.is_null(False)).execute()


def make_due() -> None:
    PresentationJob.update(run_at=datetime(2020, 1, 1, tzinfo=timezone.utc)).execute()


# Into the queue


def test_enqueue_gives_a_pending_job_that_is_due(job: PresentationJob) -> None:
    assert job.status is JobStatus.PENDING
    assert (job.attempt, job.max_attempts, job.priority, job.progress) == (0, 3, 0, 0.0)
    assert job.run_at <= datetime.now(timezone.utc) + timedelta(seconds=30)
    assert_shown_is_stored(job)


def test_enqueue_takes_part_in_the_callers_transaction(db: DatabaseManager, enqueue: Enqueue) -> None:
    with pytest.raises(ZeroDivisionError), db.transaction():
        enqueue()
        raise ZeroDivisionError
    assert PresentationJob.select().count() == 0


def test_an_idempotency_key_gives_the_unfinished_job_back(enqueue: Enqueue, user: User) -> None:
    first = enqueue(idempotency_key="upload-7")
    assert enqueue(idempotency_key="upload-7", s3_pptx_path="/other.pptx") == first
    assert enqueue(idempotency_key="upload-8") != first
    assert enqueue() != enqueue()

    (claimed,) = PresentationJob.claim("w1")
    assert claimed == first
    assert enqueue(idempotency_key="upload-7") == first
    claimed.complete(s3_video_path="/v.mp4")
    assert enqueue(idempotency_key="upload-7") != first

    other = User.create(name="Eve")
    voice = VoiceClone.create(name="v", s3_path="/eve.wav", owner=other)
    assert enqueue(owner=other, voice_clone=voice, idempotency_key="upload-7").owner_id == other.id


def test_enqueue_many_adds_all_or_none(enqueue: Enqueue, user: User, voice: VoiceClone) -> None:
    def rows(count: int, **last: Any) -> Any:
        for number in range(count):
            yield {"owner": user, "voice_clone_id": voice.id, "s3_pptx_path": f"/tab\t\\N\n{number}.pptx"}
        yield {"owner": user, "voice_clone": voice, "s3_pptx_path": "/last.pptx", **last}

    run_at = datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert PresentationJob.enqueue_many(rows(1200, priority=7, run_at=run_at, idempotency_key="k")) == 1201
    last = PresentationJob.get(PresentationJob.idempotency_key == "k")
    assert (last.priority, last.run_at, last.max_attempts, last.status) == (7, run_at, 3, JobStatus.PENDING)
    assert PresentationJob.get(PresentationJob.s3_pptx_path == "/tab\t\\N\n7.pptx").run_at.tzinfo is timezone.utc
    (claimed,) = PresentationJob.claim("w1")
    assert claimed.s3_pptx_path == "/tab\t\\N\n0.pptx"

    for bad, message in (
        ({"priority": "high"}, "^row 801: priority must be a whole number, not str$"),
        ({"s3_pptx_path": None}, "^row 801: s3_pptx_path must be set$"),
        ({"status": "failed"}, r"^row 801: status cannot be set by enqueue_many\(\)$"),
        ({"nmae": 1}, "^row 801: PresentationJob has no field 'nmae'$"),
    ):
        with pytest.raises(ValidationError, match=message):
            PresentationJob.enqueue_many(rows(800, **bad))
    with pytest.raises(ConstraintViolation):
        PresentationJob.enqueue_many(rows(800, idempotency_key="k"))
    with pytest.raises(ZeroDivisionError):
        PresentationJob.enqueue_many(iter(lambda: 1 / 0, None))  # type: ignore[arg-type]
    assert PresentationJob.select().count() == 1201
    assert PresentationJob.enqueue_many([]) == 0


# Out of it


def test_claims_come_by_priority_then_due_time_then_age(enqueue: Enqueue) -> None:
    now = datetime.now(timezone.utc)
    later = enqueue(run_at=now - timedelta(minutes=1))
    earlier = enqueue(run_at=now - timedelta(minutes=2))
    urgent = enqueue(priority=5)
    enqueue(run_at=now + timedelta(hours=1))
    twin = enqueue(run_at=earlier.run_at)

    assert PresentationJob.claim("w1", limit=2) == [urgent, earlier]
    assert PresentationJob.claim("w2", limit=9) == [twin, later]
    assert PresentationJob.claim("w3") == []


def test_a_claim_takes_the_job_into_the_workers_hand(job: PresentationJob) -> None:
    (claimed,) = PresentationJob.claim("w1", lease=timedelta(seconds=30))
    assert claimed == job
    assert claimed.status is JobStatus.PROCESSING_SLIDES
    assert (claimed.worker, claimed.attempt) == ("w1", 1)
    left = claimed.lease_expires_at - datetime.now(timezone.utc)
    assert timedelta(seconds=20) < left <= timedelta(seconds=31)
    assert claimed.started_at is not None
    assert_shown_is_stored(claimed)


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": 0},
        {"limit": 1.5},
        {"limit": "2"},
        {"lease": 0},
        {"lease": None},
        {"lease": float("nan")},
        {"lease": 1e12},
        {"lease": timedelta(0)},
        {"worker": ""},
        {"worker": 5},
    ],
)
def test_a_claim_refuses_nonsense(db: DatabaseManager, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PresentationJob.claim(**{"worker": "w1", **arguments})


def test_the_claim_is_one_statement(job: PresentationJob, statements: list[str]) -> None:
    statements.clear()
    assert PresentationJob.claim("w1") == [job]
    (claim,) = statements
    assert "AS MATERIALIZED" in claim
    assert claim.count("UPDATE") <= 2  # FOR UPDATE is the second


def test_a_claim_takes_back_what_has_expired_whether_it_finds_a_job_or_not(
    claimed: PresentationJob, enqueue: Enqueue, statements: list[str]
) -> None:
    expire_leases()
    other = enqueue()
    statements.clear()
    assert PresentationJob.claim("w2") == [other]
    assert [statement.split()[0] for statement in statements] == ["WITH", "SELECT", "WITH"]
    assert (stored(claimed).status, stored(claimed).worker) == (JobStatus.PENDING, None)
    statements.clear()
    assert PresentationJob.claim("w2") == []
    assert [statement.split()[0] for statement in statements] == ["WITH", "SELECT"]


# In a worker's hand


def test_from_pending_to_completed_with_every_column_shown(claimed: PresentationJob) -> None:
    claimed.advance(JobStatus.SYNTHESIZING_AUDIO, slides_count=3)
    assert_shown_is_stored(claimed)
    claimed.heartbeat(progress=0.5, checkpoint={"slide": 2})
    assert_shown_is_stored(claimed)
    claimed.advance(JobStatus.ASSEMBLING_VIDEO, progress=0.7)
    claimed.complete(s3_video_path="/v.mp4", video_duration_seconds=12.5, file_size_bytes=4711)

    assert_shown_is_stored(claimed)
    assert claimed.status is JobStatus.COMPLETED
    assert (claimed.progress, claimed.slides_count, claimed.checkpoint) == (1.0, 3, {"slide": 2})
    assert claimed.lease_expires_at is None
    assert claimed.worker == "w1"
    assert claimed.started_at <= claimed.completed_at
    assert claimed.processing_time_seconds >= 0
    assert [(event.from_status, event.to_status, event.worker, event.attempt) for event in claimed.history()] == [
        (JobStatus.PENDING, JobStatus.PROCESSING_SLIDES, "w1", 1),
        (JobStatus.PROCESSING_SLIDES, JobStatus.SYNTHESIZING_AUDIO, "w1", 1),
        (JobStatus.SYNTHESIZING_AUDIO, JobStatus.ASSEMBLING_VIDEO, "w1", 1),
        (JobStatus.ASSEMBLING_VIDEO, JobStatus.COMPLETED, "w1", 1),
    ]
    assert repr(claimed.history()[0]) == f"<JobEvent(job_id={claimed.id}, pending -> processing_slides)>"


def test_every_verb_is_one_statement(enqueue: Enqueue, statements: list[str]) -> None:
    jobs = [enqueue() for _ in range(4)]
    first, second, third, _ = PresentationJob.claim("w1", limit=4)
    for verb in (
        lambda: first.advance(JobStatus.SYNTHESIZING_AUDIO),
        lambda: first.heartbeat(progress=0.1),
        lambda: first.complete(s3_video_path="/v.mp4"),
        lambda: second.fail("no"),
        lambda: third.release(),
        lambda: jobs[3].cancel(),
        lambda: first.history(),
    ):
        statements.clear()
        verb()
        assert len(statements) == 1


def test_advance_goes_to_the_next_running_stage_only(claimed: PresentationJob) -> None:
    for status in (JobStatus.ASSEMBLING_VIDEO, JobStatus.PROCESSING_SLIDES, JobStatus.COMPLETED, JobStatus.PENDING):
        with pytest.raises(InvalidTransition):
            claimed.advance(status)
    with pytest.raises(ValidationError):
        claimed.advance("nonsense")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="slides_count must be positive"):
        claimed.advance(JobStatus.SYNTHESIZING_AUDIO, slides_count=0)
    assert stored(claimed).status is JobStatus.PROCESSING_SLIDES


def test_a_heartbeat_extends_the_lease_by_as_much_as_was_claimed(job: PresentationJob) -> None:
    (claimed,) = PresentationJob.claim("w1", lease=500)
    PresentationJob.update(lease_expires_at=claimed.started_at).execute()
    claimed.heartbeat()
    assert claimed.lease_expires_at > claimed.started_at + timedelta(seconds=490)
    assert_shown_is_stored(claimed)
    for progress in (-0.1, 1.1, "half"):
        with pytest.raises(ValidationError):
            claimed.heartbeat(progress=progress)


def test_a_failed_attempt_comes_back_with_a_growing_jittered_pause(job: PresentationJob) -> None:
    for attempt in (1, 2):
        (claimed,) = PresentationJob.claim("w1")
        assert claimed.attempt == attempt
        claimed.fail(RuntimeError("no disk"))
        assert claimed.status is JobStatus.PENDING
        assert claimed.error_message == "RuntimeError: no disk"
        assert (claimed.worker, claimed.lease_expires_at, claimed.started_at) == (None, None, None)
        assert_shown_is_stored(claimed)
        pause = (claimed.run_at - claimed.updated_at).total_seconds()
        longest = BACKOFF_BASE_SECONDS * 2 ** (attempt - 1)
        assert longest / 2 - 0.1 <= pause <= longest + 0.1
        assert PresentationJob.claim("w1") == []
        make_due()
    (claimed,) = PresentationJob.claim("w1")
    claimed.fail("no disk at all")
    assert claimed.status is JobStatus.FAILED
    assert claimed.completed_at is not None
    assert claimed.error_message == "no disk at all"
    assert_shown_is_stored(claimed)


def test_the_pause_has_a_cap(enqueue: Enqueue) -> None:
    enqueue(max_attempts=100)
    PresentationJob.update(attempt=90).execute()
    (claimed,) = PresentationJob.claim("w1")
    claimed.fail("again")
    pause = (claimed.run_at - claimed.updated_at).total_seconds()
    assert BACKOFF_CAP_SECONDS / 2 - 1 <= pause <= BACKOFF_CAP_SECONDS + 1


def test_fail_without_retry_ends_the_job(claimed: PresentationJob) -> None:
    claimed.fail("no deck", retry=False)
    assert claimed.status is JobStatus.FAILED
    assert [event.to_status for event in claimed.history()][-1] is JobStatus.FAILED


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("a\0b\ud800", "a\N{REPLACEMENT CHARACTER}b?"),
        ("", "failed without a message"),
        (KeyError(), "KeyError"),
        (ValueError("  x "), "ValueError: x"),
    ],
)
def test_any_error_becomes_a_storable_message(claimed: PresentationJob, error: Any, message: str) -> None:
    claimed.fail(error)
    assert stored(claimed).error_message == message


def test_an_over_long_error_is_cut(claimed: PresentationJob) -> None:
    with pytest.raises(ValidationError):
        claimed.fail(5)  # type: ignore[arg-type]
    claimed.fail("x" * 10_000_000)
    message = stored(claimed).error_message
    assert len(message) == LONG_TEXT_MAX
    assert message.endswith("x…")


def test_a_released_job_is_claimable_at_once_and_lost_no_attempt(enqueue: Enqueue) -> None:
    enqueue(max_attempts=1)
    for attempt in (1, 2, 3):
        (claimed,) = PresentationJob.claim(f"w{attempt}")
        assert claimed.attempt == attempt
        claimed.release()
        assert (claimed.status, claimed.worker) == (JobStatus.PENDING, None)
        assert_shown_is_stored(claimed)
    (claimed,) = PresentationJob.claim("w4")
    claimed.fail("really")
    assert claimed.status is JobStatus.FAILED


def test_plain_jobs_take_the_verbs_without_a_worker(job: PresentationJob) -> None:
    job.status = JobStatus.PROCESSING_SLIDES
    job.save()
    job.advance(JobStatus.SYNTHESIZING_AUDIO)
    job.heartbeat(progress=0.4)
    assert job.lease_expires_at is None
    job.complete(s3_video_path="/v.mp4")
    assert_shown_is_stored(job)
    with pytest.raises(InvalidTransition, match=f"job {job.id} cannot go from completed to failed"):
        job.fail("too late")


def test_verbs_on_a_job_that_nobody_claimed_fill_its_times_too(enqueue: Enqueue) -> None:
    advanced, completed = enqueue(), enqueue()
    advanced.advance(JobStatus.PROCESSING_SLIDES)
    advanced.complete(s3_video_path="/v.mp4")
    completed.complete(s3_video_path="/v.mp4")
    for job in (advanced, completed):
        assert_shown_is_stored(job)
        assert job.started_at <= job.completed_at
        assert job.processing_time_seconds >= 0


def test_an_end_is_written_once(claimed: PresentationJob, enqueue: Enqueue) -> None:
    copy = stored(claimed)
    claimed.complete(s3_video_path="/first.mp4")
    with pytest.raises(LeaseLost):
        copy.complete(s3_video_path="/second.mp4")
    for job in (claimed, stored(claimed)):
        for write in (
            lambda job=job: job.complete(s3_video_path="/second.mp4"),
            lambda job=job: job.fail("late", retry=False),
            lambda job=job: job.fail("late"),
            lambda job=job: job.release(),
            lambda job=job: job.advance(JobStatus.SYNTHESIZING_AUDIO),
        ):
            with pytest.raises(InvalidTransition):
                write()
        with pytest.raises(LeaseLost, match="only a running job has a lease"):
            job.heartbeat()
    assert stored(claimed).s3_video_path == "/first.mp4"
    with pytest.raises(InvalidTransition):
        enqueue().release()


def test_a_copy_of_the_job_in_another_stage_is_stale(claimed: PresentationJob) -> None:
    copy = stored(claimed)
    claimed.advance(JobStatus.SYNTHESIZING_AUDIO)
    with pytest.raises(LeaseLost):
        copy.complete(s3_video_path="/v.mp4")
    copy.heartbeat(progress=0.3)  # a sign of life is one in any stage


def test_a_plain_save_of_the_status_that_another_has_saved_tells_so(job: PresentationJob) -> None:
    one, other = PresentationJob.get_by_id(job.id), PresentationJob.get_by_id(job.id)
    one.status = other.status = JobStatus.SYNTHESIZING_AUDIO
    one.save()
    with pytest.raises(LeaseLost, match="is synthesizing_audio at attempt 0 of nobody, no longer pending"):
        other.save()


def test_a_job_that_nobody_claimed_waits_as_after_a_first_attempt(job: PresentationJob) -> None:
    job.status = JobStatus.PROCESSING_SLIDES
    job.save()
    job.fail("no disk")
    waits = PresentationJob.get_by_id(job.id).run_at - PresentationJob.get_by_id(job.id).updated_at
    assert 0.4 * BACKOFF_BASE_SECONDS <= waits.total_seconds() <= BACKOFF_BASE_SECONDS


def test_a_stale_plain_save_changes_nothing(claimed: PresentationJob) -> None:
    expire_leases()
    PresentationJob.reap()
    claimed.status = JobStatus.SYNTHESIZING_AUDIO
    with pytest.raises(LeaseLost, match="is pending at attempt 1 of nobody, no longer"):
        claimed.save()
    assert stored(claimed).status is JobStatus.PENDING


@pytest.mark.parametrize("column", ["attempt", "worker", "owner", "lease_expires_at", "created_at", "nmae"])
def test_a_worker_sets_what_it_measures_and_nothing_else(claimed: PresentationJob, column: str) -> None:
    for write in (
        lambda: claimed.advance(JobStatus.SYNTHESIZING_AUDIO, **{column: 1}),
        lambda: claimed.complete(s3_video_path="/v.mp4", **{column: 1}),
    ):
        with pytest.raises(ValidationError, match=f"a worker cannot set {column}"):
            write()
    assert stored(claimed).__data__ == claimed.__data__


def test_an_attempt_begins_anew(enqueue: Enqueue) -> None:
    enqueue()
    (claimed,) = PresentationJob.claim("w1")
    claimed.heartbeat(progress=0.7)
    expire_leases()
    PresentationJob.reap()
    back = stored(claimed)
    assert (back.progress, back.started_at, back.completed_at) == (0.0, None, None)


def test_a_plain_retry_has_an_attempt_left(enqueue: Enqueue) -> None:
    enqueue(max_attempts=1)
    (claimed,) = PresentationJob.claim("w1")
    claimed.fail("no")
    claimed.status = JobStatus.PENDING
    claimed.save()
    assert (claimed.worker, claimed.max_attempts) == (None, 2)
    assert PresentationJob.claim("w2") == [claimed]


def test_a_partly_loaded_job_is_completed_like_any_other(claimed: PresentationJob) -> None:
    job = PresentationJob.select(PresentationJob.id, PresentationJob.status).get()
    job.status, job.s3_video_path = JobStatus.COMPLETED, "/v.mp4"
    job.save()
    done = stored(claimed)
    assert done.started_at == claimed.started_at
    assert done.processing_time_seconds == pytest.approx(
        (done.completed_at - done.started_at).total_seconds(), abs=1e-5
    )
    job = PresentationJob.select(PresentationJob.id, PresentationJob.status).get()
    job.progress = 0.5
    job.save()
    assert stored(claimed).progress == 0.5


def test_controls_keep_what_is_not_saved_yet(job: PresentationJob) -> None:
    job.priority = 5
    job.cancel()
    assert (job.priority, job.dirty_field_names) == (5, ["priority"])
    job.save()
    assert stored(job).priority == 5


def test_a_deleted_job_is_not_retried(job: PresentationJob) -> None:
    job.cancel()
    job.deleted_at = datetime.now(timezone.utc)
    job.save()
    with pytest.raises(InvalidTransition, match="is cancelled and deleted; it cannot be retried"):
        job.retry()


def test_a_status_may_be_an_sql_expression(job: PresentationJob) -> None:
    job.status = pw.Value("cancelled")
    job.save()
    assert job.status is JobStatus.CANCELLED
    assert stored(job).status is JobStatus.CANCELLED


def test_enqueue_never_gives_a_strangers_job_back(postgresql: str, db: DatabaseManager, enqueue: Enqueue) -> None:
    enqueue()
    db.database.execute_sql("ALTER SEQUENCE presentation_jobs_id_seq RESTART")  # as after a careless restore
    with pytest.raises(ConstraintViolation, match="presentation_jobs_pkey"):
        enqueue(s3_pptx_path="/mine.pptx")
    assert enqueue(s3_pptx_path="/mine.pptx").s3_pptx_path == "/mine.pptx"


def test_changes_of_status_are_logged_once_they_are_certain(
    db: DatabaseManager, job: PresentationJob, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="database")
    with pytest.raises(ZeroDivisionError), db.transaction():
        job.cancel()
        raise ZeroDivisionError
    plain = stored(job)
    plain.status, plain.priority = JobStatus.FAILED, 3
    plain.save(only=["priority"])
    assert "status changed" not in caplog.text
    plain.save()
    assert f"Job {job.id} status changed: pending -> failed" in caplog.text


# Out of a worker's hand

STALE_WRITES = [
    lambda job: job.advance(JobStatus.SYNTHESIZING_AUDIO),
    lambda job: job.heartbeat(progress=0.9),
    lambda job: job.keep_alive(),
    lambda job: job.complete(s3_video_path="/stale.mp4"),
    lambda job: job.fail("stale"),
    lambda job: job.release(),
    lambda job: job.acknowledge_cancellation(),
]


def test_a_stale_worker_changes_nothing_even_under_the_same_name(claimed: PresentationJob) -> None:
    expire_leases()
    PresentationJob.claim("w2")
    make_due()
    (again,) = PresentationJob.claim("w1")
    assert (again, again.attempt) == (claimed, 2)
    before = stored(again).__data__
    for write in STALE_WRITES:
        with pytest.raises(LeaseLost, match=r"at attempt 2 of w1, no longer processing_slides at attempt 1 of w1"):
            write(claimed)
    assert stored(again).__data__ == before
    again.complete(s3_video_path="/v.mp4")


def test_a_deleted_job_is_lost(claimed: PresentationJob) -> None:
    PresentationJob.delete().execute()
    for write in STALE_WRITES:
        with pytest.raises(LeaseLost, match="was deleted"):
            write(claimed)


def test_an_expired_lease_is_taken_back_by_the_next_claim(claimed: PresentationJob) -> None:
    assert PresentationJob.claim("w2") == []
    expire_leases()
    assert PresentationJob.claim("w2") == []
    back = stored(claimed)
    assert (back.status, back.worker, back.attempt) == (JobStatus.PENDING, None, 1)
    assert back.run_at > back.updated_at
    assert "lease expired" in back.error_message
    assert claimed.history()[-1].worker == "w1"
    make_due()
    (again,) = PresentationJob.claim("w2")
    assert again.attempt == 2


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_claim_keeps_what_it_has_taken_when_another_lease_cannot_be_taken_back(
    db: DatabaseManager,
    claimed: PresentationJob,
    enqueue: Enqueue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    in_transaction: bool,
) -> None:
    expire_leases()
    other = enqueue()

    def refuse() -> int:
        raise DatabaseBusy("not now")

    monkeypatch.setattr(PresentationJob, "reap", refuse)
    if in_transaction:
        with pytest.raises(DatabaseBusy), db.transaction():
            PresentationJob.claim("w2")
        assert stored(other).status is JobStatus.PENDING
    else:
        assert PresentationJob.claim("w2") == [other]
        assert "could not be taken back: not now" in caplog.text
        with pytest.raises(DatabaseBusy):
            PresentationJob.claim("w2")


def test_a_claim_in_a_transaction_that_nobody_manages(db: DatabaseManager, job: PresentationJob) -> None:
    with db.session() as database, database.manual_commit():
        database.begin()
        assert PresentationJob.claim("w1") == [job]
        database.commit()
    assert stored(job).worker == "w1"


def test_a_job_that_kills_its_workers_ends_as_failed(job: PresentationJob) -> None:
    for _ in range(3):
        PresentationJob.reap()
        make_due()
        assert PresentationJob.claim("w1") == [job]
        expire_leases()
    assert PresentationJob.reap() == 1
    dead = stored(job)
    assert dead.status is JobStatus.FAILED
    assert dead.completed_at is not None
    assert "lease expired" in dead.error_message
    assert PresentationJob.reap() == 0


def test_one_claim_reaps_a_bounded_number(enqueue: Enqueue, user: User, voice: VoiceClone) -> None:
    row = {"owner": user, "voice_clone": voice, "s3_pptx_path": "/x.pptx"}
    PresentationJob.enqueue_many([row] * (REAP_LIMIT + 5))
    PresentationJob.claim("w1", limit=REAP_LIMIT + 5)
    expire_leases()
    assert [PresentationJob.reap() for _ in range(3)] == [REAP_LIMIT, 5, 0]


# Under control


def test_a_pending_job_is_cancelled_at_once(job: PresentationJob) -> None:
    job.cancel()
    assert job.status is JobStatus.CANCELLED
    assert_shown_is_stored(job)
    job.cancel()
    assert PresentationJob.claim("w1") == []


def test_a_running_job_hears_of_its_cancellation_at_its_next_write(claimed: PresentationJob) -> None:
    other_view = stored(claimed)
    other_view.cancel()
    assert other_view.status is JobStatus.PROCESSING_SLIDES
    assert other_view.cancel_requested_at is not None
    first_asked = other_view.cancel_requested_at
    other_view.cancel()
    assert other_view.cancel_requested_at == first_asked

    for write in STALE_WRITES[:-1]:
        with pytest.raises(JobCancelled, match=f"job {claimed.id} was cancelled"):
            write(claimed)
    assert stored(claimed).progress == 0.9  # the heartbeat's: what was done is recorded
    claimed.acknowledge_cancellation()
    assert claimed.status is JobStatus.CANCELLED
    assert_shown_is_stored(claimed)
    with pytest.raises(JobCancelled):
        other_view.release()


def test_a_cancelled_job_whose_worker_died_is_reaped_as_cancelled(claimed: PresentationJob) -> None:
    stored(claimed).cancel()
    expire_leases()
    PresentationJob.reap()
    assert stored(claimed).status is JobStatus.CANCELLED


def test_finished_jobs_cannot_be_cancelled(claimed: PresentationJob) -> None:
    claimed.complete(s3_video_path="/v.mp4")
    with pytest.raises(InvalidTransition, match=f"job {claimed.id} is completed; it cannot be cancelled"):
        claimed.cancel()


def test_a_failed_job_is_retried_by_hand_with_at_least_one_more_attempt(enqueue: Enqueue) -> None:
    enqueue(max_attempts=1)
    (claimed,) = PresentationJob.claim("w1")
    with pytest.raises(InvalidTransition, match="is processing_slides; it cannot be retried"):
        claimed.retry()
    claimed.fail("no")
    claimed.retry()
    assert (claimed.status, claimed.attempt, claimed.max_attempts) == (JobStatus.PENDING, 1, 2)
    assert claimed.error_message == "no"
    assert_shown_is_stored(claimed)
    (again,) = PresentationJob.claim("w2")
    again.complete(s3_video_path="/v.mp4")
    assert stored(again).error_message is None
    assert [event.to_status.value for event in again.history()] == [
        "processing_slides", "failed", "pending", "processing_slides", "completed",
    ]  # fmt: skip


def test_a_cancelled_job_can_be_retried(job: PresentationJob) -> None:
    job.cancel()
    job.retry()
    assert (job.status, job.cancel_requested_at, job.completed_at) == (JobStatus.PENDING, None, None)
    (claimed,) = PresentationJob.claim("w1")
    claimed.heartbeat()


def test_changes_of_status_are_logged(job: PresentationJob, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="database")
    (claimed,) = PresentationJob.claim("w1")
    claimed.advance(JobStatus.SYNTHESIZING_AUDIO)
    claimed.heartbeat()
    claimed.fail("x", retry=False)
    plain = stored(claimed)
    plain.status = JobStatus.PENDING
    plain.save()
    plain.cancel()
    changes = [record.getMessage() for record in caplog.records if record.name == "database"]
    assert changes == [
        f"Job {job.id} status changed: {change}"
        for change in (
            "pending -> processing_slides",
            "processing_slides -> synthesizing_audio",
            "synthesizing_audio -> failed",
            "failed -> pending",
            "pending -> cancelled",
        )
    ]


def test_a_deleted_job_that_has_the_key_is_nobodys_twin(enqueue: Enqueue) -> None:
    job = enqueue(idempotency_key="k")
    PresentationJob.update(deleted_at=job.created_at).execute()
    with pytest.raises(
        ConstraintViolation, match=f"job {job.id} has the idempotency key, is not finished and was deleted"
    ):
        enqueue(idempotency_key="k")


def test_a_job_can_be_undeleted_more_than_once(job: PresentationJob) -> None:
    job.cancel()
    job.soft_delete()
    for _ in range(2):
        job.undelete()
        assert stored(job).deleted_at is None
