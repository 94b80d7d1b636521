"""How to test a worker script: `pytest test_video_worker.py`, beside the conftest.py of docs/testing.md.

The worker under test is video_worker.py. What is slow in it, speech and ffmpeg, is replaced; the queue, its rules and
the database are the real ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from presgen import JobStatus, PresentationJob
from presgen.examples import samples, video_worker
from presgen.examples.studio import Slide, StudioError, Video
from presgen.testing import Drain, MakeJob, expire_lease, went_through

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a deck of two slides, and a studio that does nothing slow."""
    samples.make_deck(tmp_path / "talk.pptx", "Talk", [Slide("One", (), "One."), Slide("Two", (), "Two.")])
    samples.make_broken_deck(tmp_path / "broken.pptx")
    monkeypatch.setattr(video_worker, "STORE", tmp_path)
    monkeypatch.setattr(video_worker, "speak", lambda *_, **__: 1.0)
    monkeypatch.setattr(video_worker, "assemble", lambda _slides, _audio, path: Video(path, seconds=2.0, size=1_000))
    return tmp_path


def test_a_deck_becomes_a_video(presgen_make_job: MakeJob, presgen_drain: Drain) -> None:
    presgen_make_job(s3_pptx_path="/talk.pptx")

    (job,) = presgen_drain(video_worker.make_video)

    assert job.status is JobStatus.COMPLETED
    assert (job.slides_count, job.s3_video_path) == (2, f"/talk-{job.id}.mp4")
    assert went_through(job) == ["processing_slides", "synthesizing_audio", "assembling_video", "completed"]


def test_a_broken_deck_fails_at_once(presgen_make_job: MakeJob, presgen_drain: Drain) -> None:
    presgen_make_job(s3_pptx_path="/broken.pptx")

    (job,) = presgen_drain(video_worker.make_video)

    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert "not a PowerPoint deck" in job.error_message


def test_a_voice_service_that_is_down_for_a_while_costs_attempts(
    presgen_make_job: MakeJob, presgen_drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [StudioError("the voice service is down")] * 2

    def speak(*_: object, **__: object) -> float:
        if outcomes:
            raise outcomes.pop()
        return 1.0

    monkeypatch.setattr(video_worker, "speak", speak)
    presgen_make_job(s3_pptx_path="/talk.pptx")

    (job,) = presgen_drain(video_worker.make_video)  # retries are due at once

    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 3)


def test_a_job_outlives_its_worker(presgen_make_job: MakeJob, presgen_drain: Drain) -> None:
    presgen_make_job(s3_pptx_path="/talk.pptx")
    (in_hand,) = PresentationJob.claim("a worker that is about to crash")
    expire_lease(in_hand)

    (job,) = presgen_drain(video_worker.make_video)

    assert (job.id, job.status, job.attempt) == (in_hand.id, JobStatus.COMPLETED, 2)
