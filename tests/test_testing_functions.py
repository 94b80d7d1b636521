"""The functions of presgen.testing; its fixtures are tested in tests/examples/test_testing.py."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fixtures.rows import stored

from presgen import DatabaseManager, JobStatus, LeaseLost, PresentationJob, User, VoiceClone, testing
from presgen.errors import ConfigurationError, InvalidTransition
from presgen.testing import drain, expire_lease, make_due, make_job, make_user, make_voice_clone, went_through


def complete(job: PresentationJob) -> None:
    job.complete(s3_video_path="/talk.mp4")


def refuse(job: PresentationJob) -> None:
    raise RuntimeError(f"no, for the {job.attempt}. time")


# Rows


def test_rows_are_made_with_nothing_given_and_again(db: DatabaseManager) -> None:
    makers = (make_user, make_voice_clone, make_job)
    for _ in range(2):
        assert [make().id for make in makers]
    # Each voice has its user, each job its voice.
    assert [model.select().count() for model in (User, VoiceClone, PresentationJob)] == [6, 4, 2]


def test_what_is_given_is_stored(db: DatabaseManager) -> None:
    ada = make_user(name="Ada", email="ada@example.com")
    voice = make_voice_clone(owner=ada, sample_rate=16_000)
    for job in (make_job(owner=ada), make_job(voice_clone=voice), make_job(owner=ada.id, voice_clone=voice)):
        assert (job.owner, job.voice_clone.owner) == (ada, ada)
    done = stored(make_job(status=JobStatus.COMPLETED, s3_video_path="/v.mp4", priority=7))
    assert (done.status, done.s3_video_path, done.priority) == (JobStatus.COMPLETED, "/v.mp4", 7)
    assert (VoiceClone.get_by_id(voice.id).sample_rate, ada.email) == (16_000, "ada@example.com")


# The queue


def test_drain_gives_the_jobs_as_stored_in_the_order_of_their_claims(db: DatabaseManager) -> None:
    later, urgent = make_job(), make_job(priority=1)
    seen: list[int] = []

    def handle(job: PresentationJob) -> None:
        seen.append(job.id)
        complete(job)

    assert [(job.id, job.status) for job in drain(db, handle)] == [(urgent.id, "completed"), (later.id, "completed")]
    assert seen == [urgent.id, later.id]
    assert drain(db, handle) == []


def test_drain_passes_by_backoffs_until_a_job_has_ended(db: DatabaseManager) -> None:
    make_job(max_attempts=3)
    (job,) = drain(db, refuse)
    assert (job.status, job.attempt) == (JobStatus.FAILED, 3)
    assert job.error_message == "RuntimeError: no, for the 3. time"


def test_drain_without_retries_leaves_the_backoff(db: DatabaseManager) -> None:
    make_job()
    (job,) = drain(db, refuse, retries=False)
    assert (job.status, job.attempt) == (JobStatus.PENDING, 1)
    assert job.run_at > job.updated_at
    assert drain(db, complete, retries=False) == []
    assert [job.status for job in drain(db, complete)] == [JobStatus.COMPLETED]


def test_drain_leaves_jobs_that_are_to_run_later(db: DatabaseManager) -> None:
    job = make_job()
    PresentationJob.update(run_at=job.run_at + timedelta(days=1)).execute()
    assert drain(db, complete) == []
    make_due(job)
    assert drain(db, complete) == [job]


def test_drain_leaves_out_a_job_that_its_handler_deletes(db: DatabaseManager) -> None:
    make_job()
    assert drain(db, lambda job: job.delete_instance()) == []


def test_a_handler_that_always_releases_its_job_ends_the_test(
    db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing, "CLAIMS_MAX", 5)
    job = make_job()
    with pytest.raises(AssertionError, match="not drained after 5 claims; does the handler release its jobs"):
        drain(db, lambda job: job.release())
    assert stored(job).attempt == 6


def test_a_job_with_an_expired_lease_is_taken_back_and_its_worker_learns_of_it(db: DatabaseManager) -> None:
    make_job()
    (in_hand,) = PresentationJob.claim("crashed")
    expire_lease(in_hand)
    (job,) = drain(db, complete)
    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 2)
    assert went_through(job) == ["processing_slides", "pending", "processing_slides", "completed"]
    with pytest.raises(LeaseLost):
        in_hand.heartbeat()


def test_helpers_refuse_jobs_that_they_cannot_help_with(db: DatabaseManager) -> None:
    job = make_job()
    with pytest.raises(InvalidTransition, match=f"job {job.id} is in no worker's hand"):
        expire_lease(job)
    PresentationJob.claim("w1")
    with pytest.raises(InvalidTransition, match=f"job {job.id} is not pending"):
        make_due(job)
    assert went_through(job) == ["processing_slides"]


def test_without_a_database_rows_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigurationError, match="the models have no database"):
        make_user()
