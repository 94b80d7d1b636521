"""What a worker is told when the server commits and the reply is lost: the truth, or that nobody knows it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest
from chaos.proxy import CuttingProxy
from chaos.server import CrashServer, Restart
from fixtures.rows import stored

from presgen import (
    CommitUnknown,
    DatabaseManager,
    DatabaseUnavailable,
    JobCancelled,
    JobStatus,
    LeaseLost,
    PresentationJob,
    User,
    VoiceClone,
    Worker,
)
from presgen.models.reapable import LEASE_EXPIRED

_numbers = itertools.count(1)


@pytest.fixture
def claimed(proxied: DatabaseManager) -> PresentationJob:
    user = User.create(name="Ada")
    voice = VoiceClone.create(name="v", s3_path=f"/{next(_numbers)}.wav", owner=user)
    PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx")
    (job,) = PresentationJob.claim("w1", lease=5)
    return job


VERBS: list[tuple[str, Callable[[PresentationJob], None]]] = [
    ("complete", lambda job: job.complete(s3_video_path="/v.mp4")),
    ("advance", lambda job: job.advance(JobStatus.SYNTHESIZING_AUDIO, slides_count=4)),
    ("fail, release", lambda job: job.fail("no", retry=False)),
    ("fail, release", lambda job: job.fail("no")),
    ("fail, release", lambda job: job.release()),
    ("heartbeat", lambda job: job.heartbeat(progress=0.5, checkpoint=[1])),
    ("heartbeat", lambda job: job.keep_alive()),
]


@pytest.mark.parametrize(("kind", "verb"), VERBS)
def test_a_verb_whose_reply_is_lost_tells_what_became_of_it(
    proxy: CuttingProxy, claimed: PresentationJob, kind: str, verb: Callable[[PresentationJob], None]
) -> None:
    cuts, events = proxy.cuts.total(), len(claimed.history())
    proxy.order(kind)
    verb(claimed)
    assert proxy.cuts.total() == cuts + 1
    now = stored(claimed)
    assert now.status is claimed.status
    if kind != "heartbeat":
        assert now.__data__ == claimed.__data__
        assert len(claimed.history()) == events + 1


def test_the_end_is_the_first_writers_even_when_its_reply_was_lost(
    proxy: CuttingProxy, claimed: PresentationJob
) -> None:
    copy = stored(claimed)
    proxy.order("complete")
    claimed.complete(s3_video_path="/first.mp4")
    with pytest.raises(LeaseLost):
        copy.complete(s3_video_path="/second.mp4")
    assert stored(claimed).s3_video_path == "/first.mp4"


def test_a_lost_reply_and_a_cancellation(proxy: CuttingProxy, claimed: PresentationJob) -> None:
    stored(claimed).cancel()
    proxy.order("heartbeat")
    with pytest.raises(JobCancelled):
        claimed.heartbeat(progress=0.5)
    assert stored(claimed).progress == 0.5


def test_what_cannot_be_verified_is_unknown_and_can_be_asked_again(
    server: CrashServer, proxy: CuttingProxy, claimed: PresentationJob
) -> None:
    claimed.lease_seconds = 0.5
    proxy.order("complete")
    with proxy.unreachable():
        with pytest.raises(CommitUnknown, match="read the rows again"):
            claimed.complete(s3_video_path="/v.mp4")
        assert claimed.status is JobStatus.PROCESSING_SLIDES
    claimed.complete(s3_video_path="/v.mp4")
    assert (claimed.status, stored(claimed).status) == (JobStatus.COMPLETED, JobStatus.COMPLETED)
    assert [event.to_status for event in claimed.history()].count(JobStatus.COMPLETED) == 1


def test_a_connection_that_died_in_hand_costs_a_verb_nothing(
    server: CrashServer, proxied: DatabaseManager, claimed: PresentationJob
) -> None:
    with proxied.session():
        PresentationJob.get()
        terminate_all(server)
        claimed.heartbeat(progress=0.5)
        claimed.complete(s3_video_path="/v.mp4")
    assert stored(claimed).status is JobStatus.COMPLETED


def test_a_statement_that_was_never_sent_is_not_unknown(server: CrashServer, proxied: DatabaseManager) -> None:
    with proxied.session():
        User.select().count()
        terminate_all(server)
        with pytest.raises(DatabaseUnavailable, match="nothing uncommitted was kept"):
            User.create(name="Ada")
        User.create(name="Grace")
    assert [user.name for user in User.select()] == ["Grace"]


def test_a_single_write_whose_reply_is_lost_is_unknown(
    proxy: CuttingProxy, proxied: DatabaseManager, claimed: PresentationJob
) -> None:
    given = {"owner": claimed.owner, "voice_clone": claimed.voice_clone, "s3_pptx_path": "/y.pptx"}
    proxy.order("enqueue")
    with pytest.raises(CommitUnknown) as caught:
        PresentationJob.enqueue(**given, idempotency_key="k")
    assert not caught.value.retryable
    again = PresentationJob.enqueue(**given, idempotency_key="k")  # the key makes it safe to ask again
    assert PresentationJob.select().where(PresentationJob.idempotency_key == "k").count() == 1
    assert again.s3_pptx_path == "/y.pptx"


def test_a_lost_reply_to_a_claim_is_unknown_and_the_lease_brings_the_job_back(
    proxy: CuttingProxy, claimed: PresentationJob
) -> None:
    claimed.release()
    proxy.order("claim")
    with pytest.raises(CommitUnknown):
        PresentationJob.claim("w2", lease=0.05)
    assert stored(claimed).worker == "w2"
    time.sleep(0.1)
    assert PresentationJob.claim("w3") == []
    assert stored(claimed).status is JobStatus.PENDING


def test_a_lost_commit_of_ones_own_transaction_is_unknown(
    proxy: CuttingProxy, proxied: DatabaseManager, claimed: PresentationJob
) -> None:
    proxy.order("COMMIT")
    with pytest.raises(CommitUnknown), proxied.transaction():
        claimed.complete(s3_video_path="/v.mp4")
    assert stored(claimed).status is JobStatus.COMPLETED


def test_a_verb_in_a_lost_transaction_is_not_repeated_outside_it(
    server: CrashServer, proxied: DatabaseManager, claimed: PresentationJob
) -> None:
    with pytest.raises(DatabaseUnavailable), proxied.transaction():
        User.create(name="goes with it")
        terminate_all(server)
        claimed.complete(s3_video_path="/v.mp4")
    assert stored(claimed).status is JobStatus.PROCESSING_SLIDES


def test_heartbeats_do_not_hide_the_lost_reply_to_an_end(proxy: CuttingProxy, claimed: PresentationJob) -> None:
    for _ in range(40):
        with claimed.lease(every=0.0005):
            proxy.order("complete")
            claimed.complete(s3_video_path="/v.mp4")
        assert stored(claimed).status is JobStatus.COMPLETED
        PresentationJob.delete().execute()
        owner, voice = User.get(), VoiceClone.get()
        PresentationJob.enqueue(owner=owner, voice_clone=voice, s3_pptx_path="/x.pptx")
        (claimed,) = PresentationJob.claim("w1", lease=5)


@pytest.mark.parametrize("verb", [lambda job: job.release(), lambda job: job.fail("mine")])
def test_the_rescue_of_a_job_is_not_taken_for_its_workers_own_end(
    proxy: CuttingProxy, claimed: PresentationJob, verb: Callable[[PresentationJob], None]
) -> None:
    """The write never reached the server; meanwhile the lease has ended, and a rescue has left the same record."""
    claimed.unknown_change = (JobStatus.PROCESSING_SLIDES, JobStatus.PENDING)
    PresentationJob.update(lease_expires_at=claimed.created_at).execute()
    assert PresentationJob.reap() == 1
    with pytest.raises(LeaseLost):
        verb(claimed)
    rescued = stored(claimed)
    assert (rescued.error_message, rescued.max_attempts) == (LEASE_EXPIRED, 3)


def test_an_end_that_nobody_can_tell_from_a_rescue_any_more_is_unknown(claimed: PresentationJob) -> None:
    claimed.unknown_change = (JobStatus.PROCESSING_SLIDES, JobStatus.PENDING)
    PresentationJob.update(lease_expires_at=claimed.created_at).execute()
    PresentationJob.reap()
    PresentationJob.update(run_at=claimed.created_at).execute()
    (again,) = PresentationJob.claim("w2")
    with pytest.raises(CommitUnknown, match="see its history"):
        claimed.release()
    assert stored(again).__data__ == again.__data__


def test_what_a_handler_died_of_outlives_an_outage(
    server: CrashServer, proxy: CuttingProxy, proxied: DatabaseManager, claimed: PresentationJob
) -> None:
    claimed.release()

    def handler(job: PresentationJob) -> None:
        outage = proxy.unreachable()
        outage.__enter__()
        terminate_all(server)
        threading.Timer(1.0, outage.__exit__, (None, None, None)).start()
        raise ValueError("the cause")

    assert Worker(proxied, handler, lease=20).run_once()
    assert stored(claimed).error_message == "ValueError: the cause"


def test_a_worker_waits_out_a_restart_in_the_middle_of_a_job(
    server: CrashServer, proxy: CuttingProxy, proxied: DatabaseManager, claimed: PresentationJob
) -> None:
    claimed.release()
    attempts: list[int] = []

    def handler(job: PresentationJob) -> None:
        attempts.append(job.attempt)
        outage = proxy.unreachable()
        outage.__enter__()
        terminate_all(server)
        threading.Timer(1.0, outage.__exit__, (None, None, None)).start()
        job.advance(JobStatus.SYNTHESIZING_AUDIO)
        job.complete(s3_video_path="/v.mp4")

    assert Worker(proxied, handler, lease=20).drain() == 1
    assert (stored(claimed).status, attempts) == (JobStatus.COMPLETED, [2])


def test_a_verb_by_hand_does_not_wait_for_a_server_that_is_down(
    proxy: CuttingProxy, proxied: DatabaseManager, claimed: PresentationJob
) -> None:
    proxied.database.close_all()
    with proxy.unreachable(), pytest.raises(DatabaseUnavailable, match="cannot connect"):
        claimed.complete(s3_video_path="/v.mp4")


def terminate_all(server: CrashServer) -> None:
    server.restart(Restart.TERMINATE)
    time.sleep(0.2)  # until the proxy has passed the end on
