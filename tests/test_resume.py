"""A job that comes back resumes where it was: its stage, its checkpoint; and how long each stage took."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from fixtures.rows import Enqueue, stored

from presgen import (
    DatabaseManager,
    DatabaseUnavailable,
    InvalidTransition,
    JobCancelled,
    JobEvent,
    JobStatus,
    LeaseLost,
    PresentationJob,
    PresgenError,
    ValidationError,
    Worker,
)

SLIDES, AUDIO, VIDEO = JobStatus.PROCESSING_SLIDES, JobStatus.SYNTHESIZING_AUDIO, JobStatus.ASSEMBLING_VIDEO


def claim_again(worker: str = "w2") -> PresentationJob:
    PresentationJob.update(run_at=PresentationJob.created_at).execute()
    (job,) = PresentationJob.claim(worker)
    return job


def test_a_retry_resumes_at_the_stage_and_the_checkpoint_it_had_reached(claimed: PresentationJob) -> None:
    claimed.advance(AUDIO, slides_count=12)
    claimed.heartbeat(progress=0.5, checkpoint={"spoken": 7})
    claimed.fail("the voice server is down")
    again = claim_again()
    assert (again.status, again.checkpoint, again.slides_count, again.attempt) == (AUDIO, {"spoken": 7}, 12, 2)
    assert [(event.from_status, event.to_status) for event in again.history()][-1] == (JobStatus.PENDING, AUDIO)


@pytest.mark.parametrize("way", ["crash", "release", "retry by hand"])
def test_every_way_back_resumes(claimed: PresentationJob, way: str) -> None:
    claimed.advance(AUDIO)
    claimed.advance(VIDEO)
    claimed.heartbeat(checkpoint=[1, 2])
    if way == "crash":
        PresentationJob.update(lease_expires_at=PresentationJob.created_at).execute()
        assert PresentationJob.reap() == 1
    elif way == "release":
        claimed.release()
    else:
        claimed.fail("no", retry=False)
        stored(claimed).retry()
    again = claim_again()
    assert (again.status, again.checkpoint) == (VIDEO, [1, 2])


def test_a_job_resumes_at_the_stage_of_its_latest_attempt(claimed: PresentationJob) -> None:
    claimed.advance(AUDIO)
    claimed.release()
    second = claim_again()
    assert second.status is AUDIO
    second.advance(VIDEO)
    second.release()
    assert claim_again().status is VIDEO


def test_the_first_claim_begins_at_the_beginning(job: PresentationJob) -> None:
    (claimed,) = PresentationJob.claim("w1")
    assert (claimed.status, claimed.resumed_at) == (SLIDES, None)
    with pytest.raises(InvalidTransition):
        claimed.advance(SLIDES)


def test_a_handler_that_starts_from_the_beginning_catches_up(claimed: PresentationJob) -> None:
    claimed.advance(AUDIO)
    claimed.advance(VIDEO)
    claimed.release()
    again = claim_again()
    lease = stored(again).lease_expires_at
    again.advance(AUDIO, slides_count=4, progress=0.2)
    shown = stored(again)
    assert (shown.status, shown.slides_count, shown.progress) == (VIDEO, 4, 0.2)
    assert shown.lease_expires_at >= lease
    again.advance(VIDEO)
    again.complete(s3_video_path="/v.mp4")
    assert [event.to_status for event in again.history()][-2:] == [VIDEO, JobStatus.COMPLETED]


def test_catching_up_is_fenced_and_ends_with_the_first_real_advance(claimed: PresentationJob) -> None:
    claimed.advance(AUDIO)
    claimed.release()
    again = claim_again()
    stale = claim_is_lost(again)
    with pytest.raises(LeaseLost):
        stale.advance(SLIDES, slides_count=3)
    third = claim_again("w3")
    third.advance(VIDEO)
    with pytest.raises(InvalidTransition):
        third.advance(AUDIO)
    assert stored(third).slides_count is None


def claim_is_lost(job: PresentationJob) -> PresentationJob:
    PresentationJob.update(lease_expires_at=PresentationJob.created_at).execute()
    PresentationJob.reap()
    return job


def test_a_worker_resumes_too(db: DatabaseManager, job: PresentationJob) -> None:
    seen: list[tuple[JobStatus, object]] = []

    def handler(job: PresentationJob) -> None:
        seen.append((job.status, job.checkpoint))
        job.advance(AUDIO)
        if job.attempt == 1:
            job.heartbeat(checkpoint={"slide": 3})
            raise ValueError("once")
        job.complete(s3_video_path="/v.mp4")

    worker = Worker(db, handler)
    worker.drain()
    PresentationJob.update(run_at=PresentationJob.created_at).execute()
    worker.drain()
    assert seen == [(SLIDES, None), (AUDIO, {"slide": 3})]
    assert stored(job).status is JobStatus.COMPLETED


def test_what_was_measured_is_recorded_though_the_job_was_cancelled(claimed: PresentationJob) -> None:
    stored(claimed).cancel()
    with pytest.raises(JobCancelled):
        claimed.advance(AUDIO, slides_count=9)
    with pytest.raises(JobCancelled):
        claimed.complete(s3_video_path="/orphan.mp4", file_size_bytes=5)
    claimed.acknowledge_cancellation()
    ended = stored(claimed)
    assert (ended.status, ended.slides_count, ended.s3_video_path, ended.file_size_bytes) == (
        JobStatus.CANCELLED, 9, "/orphan.mp4", 5,
    )  # fmt: skip


def test_stage_seconds_come_from_the_history(claimed: PresentationJob) -> None:
    claimed.advance(AUDIO)
    claimed.release()
    again = claim_again()
    again.advance(VIDEO)
    again.complete(s3_video_path="/v.mp4")
    begin = claimed.created_at
    for event, second in zip(again.history(), (0, 2, 5, 100, 101.5, 111.5), strict=True):
        JobEvent.update(at=begin + timedelta(seconds=second)).where(JobEvent.id == event.id).execute()
    assert again.stage_seconds() == pytest.approx({SLIDES: 2, AUDIO: 3 + 1.5, VIDEO: 10})


def test_the_stage_a_job_is_in_counts_until_now(claimed: PresentationJob) -> None:
    assert 0 <= claimed.stage_seconds()[SLIDES] < 60
    (event,) = claimed.history()
    JobEvent.update(at=event.at - timedelta(hours=1)).execute()
    assert claimed.stage_seconds()[SLIDES] == pytest.approx(3600, abs=60)
    JobEvent.update(at=event.at + timedelta(hours=1)).execute()  # the server's clock was set back
    assert claimed.stage_seconds() == {SLIDES: 0.0}


def test_a_job_that_never_ran_has_no_stages(job: PresentationJob) -> None:
    assert job.stage_seconds() == {}


def test_wait_gives_the_status_at_the_end_and_shows_the_job(db: DatabaseManager, job: PresentationJob) -> None:
    def work() -> None:
        with db.session():
            Worker(db, lambda job: job.complete(s3_video_path="/v.mp4")).drain()

    thread = threading.Timer(0.2, work)
    thread.start()
    job.priority = 7
    assert job.wait(timeout=20) is JobStatus.COMPLETED
    assert (job.s3_video_path, job.priority) == ("/v.mp4", 7)
    thread.join()


def test_wait_ends_at_its_timeout(db: DatabaseManager, job: PresentationJob) -> None:
    db.database.close()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=f"job {job.id} is still pending"):
        job.wait(timeout=0.2)
    assert time.monotonic() - began >= 0.2
    with pytest.raises(TimeoutError):
        job.wait(timeout=0)
    assert db.pool_stats()["in_use"] == 0
    job.cancel()
    assert job.wait(timeout=timedelta(seconds=1)) is JobStatus.CANCELLED
    with pytest.raises(ValidationError, match="timeout"):
        job.wait(timeout=-1)


def test_wait_refuses_to_wait_in_vain(db: DatabaseManager, enqueue: Enqueue) -> None:
    deleted, gone = enqueue(), enqueue()
    with db.transaction(), pytest.raises(PresgenError, match="inside a transaction"):
        deleted.wait(timeout=1)
    PresentationJob.update(deleted_at=deleted.created_at).where(PresentationJob.id == deleted.id).execute()
    with pytest.raises(PresgenError, match="was deleted while it was pending, and no worker claims it"):
        deleted.wait(timeout=1)
    gone.delete_instance()
    with pytest.raises(PresgenError, match=f"job {gone.id} was deleted"):
        gone.wait(timeout=1)


def test_wait_sits_out_an_outage(job: PresentationJob, monkeypatch: pytest.MonkeyPatch) -> None:
    look, looks = PresentationJob._look, []

    def flaky(self: PresentationJob, **options: bool) -> JobStatus:
        looks.append(1)
        if len(looks) == 2:
            raise DatabaseUnavailable("restarting")
        if len(looks) == 3:
            stored(job).cancel()
        return look(self, **options)

    monkeypatch.setattr(PresentationJob, "_look", flaky)
    assert job.wait(timeout=20) is JobStatus.CANCELLED
    looks[:] = [1]
    with pytest.raises(DatabaseUnavailable):  # a database that does not answer to begin with is no outage to sit out
        job.wait(timeout=20)


def test_a_lease_is_kept_alive_for_a_loop_written_by_hand(enqueue: Enqueue) -> None:
    job = enqueue()
    (claimed,) = PresentationJob.claim("w1", lease=0.6)
    first = stored(job).lease_expires_at
    with claimed.lease(every=0.05) as held:
        assert held is claimed
        deadline = time.monotonic() + 20
        while stored(job).lease_expires_at <= first + timedelta(seconds=0.7):
            assert time.monotonic() < deadline
            assert PresentationJob.claim("thief") == []
            time.sleep(0.02)
    claimed.complete(s3_video_path="/v.mp4")
    assert stored(job).attempt == 1


def test_a_lost_lease_shows_at_the_next_verb(claimed: PresentationJob) -> None:
    with claimed.lease():
        claim_is_lost(claimed)
        with pytest.raises(LeaseLost):
            claimed.heartbeat()
    for every in (0, 60, 3600):
        with pytest.raises(ValidationError, match="every"), claimed.lease(every=every):
            pass


def test_what_a_handler_does_to_its_instance_does_not_end_its_heartbeats(db: DatabaseManager, enqueue: Enqueue) -> None:
    job = enqueue()

    def handler(job: PresentationJob) -> None:
        first = stored(job).lease_expires_at
        job.attempt, job.worker = 99, "forged"
        deadline = time.monotonic() + 20
        while stored(job).lease_expires_at <= first:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    Worker(db, handler, lease=0.6).run_once()
    assert stored(job).error_message == "the handler returned without completing the job"


def test_only_a_cancelled_job_can_be_acknowledged(claimed: PresentationJob) -> None:
    with pytest.raises(InvalidTransition, match="nobody has asked to cancel it"):
        claimed.acknowledge_cancellation()
    stored(claimed).cancel()
    claimed.acknowledge_cancellation()
    assert stored(claimed).status is JobStatus.CANCELLED


@pytest.mark.parametrize("look", ["wait", "cancel", "retry"])
def test_a_look_at_the_job_gives_nobody_the_claim_of_another_worker(claimed: PresentationJob, look: str) -> None:
    claim_is_lost(claimed)
    again = claim_again()
    if look == "wait":
        with pytest.raises(TimeoutError):
            claimed.wait(timeout=0)
    elif look == "cancel":
        claimed.cancel()
    else:
        again.fail("no", retry=False)
        claimed.retry()
        again = claim_again()
        with pytest.raises(TimeoutError):
            claimed.wait(timeout=0)
    before = stored(again).__data__
    for write in (
        lambda: claimed.complete(s3_video_path="/stale.mp4"),
        lambda: claimed.heartbeat(progress=0.9),
        lambda: claimed.acknowledge_cancellation(),
        lambda: claimed.fail("stale"),
    ):
        with pytest.raises((LeaseLost, JobCancelled)):
            write()
    claimed.status = JobStatus.FAILED
    with pytest.raises((LeaseLost, JobCancelled)):
        claimed.save()
    assert stored(again).__data__ == before


def test_only_a_running_job_can_be_released(claimed: PresentationJob) -> None:
    claimed.fail("no", retry=False)
    with pytest.raises(InvalidTransition, match="is failed; only a running job can be released"):
        claimed.release()
