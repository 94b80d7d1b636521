"""The scripts in examples/ run as they are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from fixtures.servers import Server

from presgen import DatabaseManager, JobStatus, PresentationJob, User, VoiceClone, Worker
from presgen.examples import samples, video_worker
from presgen.examples.studio import Slide, measure_wav

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def url(servers: dict[str, Server]) -> Iterator[str]:
    server = servers["postgresql-18"]
    server.execute("CREATE DATABASE presgen_scripts")
    yield server.url_of("presgen_scripts")
    server.execute("DROP DATABASE presgen_scripts WITH (FORCE)")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(mkdtemp(prefix="presgen-scripts-")).resolve()
    samples.make_deck(path / "talk.pptx", "Talk", [Slide("One", ("a line",), "One."), Slide("Two", (), "Two.")])
    samples.make_voice(path / "ada.wav", "Ada")
    yield path
    shutil.rmtree(path)


def script(name: str, *arguments: str | Path, url: str) -> list[str]:
    return ["env", f"DATABASE_URL={url}", sys.executable, str(EXAMPLES / name), *map(str, arguments)]


def test_enqueue_and_worker_make_a_video(url: str, folder: Path) -> None:
    with DatabaseManager(url) as manager:
        manager.migrate()
        words = script("enqueue.py", "Ada@Example.com", "ada.wav", "talk.pptx", url=url)
        for number in (1, 2):  # the second time, Ada and her voice are there
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
            assert (done.stdout, done.stderr) == (f"job {number} is pending\n", "")
        with subprocess.Popen(script("worker.py", url=url)) as worker:
            jobs = [_finished(number) for number in (1, 2)]
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(PATIENCE_SECONDS) == 0
        assert [user.email for user in User.select()] == ["ada@example.com"]
        (voice,) = VoiceClone.select()
    facts = measure_wav(folder / "ada.wav")
    assert (voice.file_size, voice.sample_rate) == (facts.file_size, facts.sample_rate)
    for job in jobs:
        assert (job.status, job.slides_count) == (JobStatus.COMPLETED, 2)
        assert Path(job.s3_video_path).is_file()


def _finished(job_id: int) -> PresentationJob:
    """The job once it is finished, by reading it over and over."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (job := PresentationJob.get_by_id(job_id)).status.is_finished and time.monotonic() < deadline:
        time.sleep(0.05)
    return job


def test_enqueue_tells_how_it_is_called() -> None:
    done = subprocess.run(script("enqueue.py", url="sqlite:///x"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "email voice deck" in done.stderr


# The handler of video_worker.py


@pytest.fixture
def db() -> Iterator[DatabaseManager]:
    with DatabaseManager("sqlite:///:memory:") as manager, manager.session():
        manager.migrate()
        yield manager


def made(db: DatabaseManager, deck: str, voice: str = "/ada.wav") -> PresentationJob:
    """A job for the deck after a worker has had it in hand."""
    user = User.create(name="Ada")
    clone = VoiceClone.create(owner=user, name="hers", s3_path=voice)
    job = PresentationJob.enqueue(owner=user, voice_clone=clone, s3_pptx_path=deck)
    Worker(db, video_worker.make_video).drain()
    return PresentationJob.get_by_id(job.id)  # type: ignore[no-any-return]


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(video_worker, "STORE", folder)
    return folder


def test_a_deck_becomes_a_video_beside_it(db: DatabaseManager, store: Path) -> None:
    job = made(db, "/talk.pptx")
    assert (job.status, job.s3_video_path) == (JobStatus.COMPLETED, f"/talk-{job.id}.mp4")
    assert (store / f"talk-{job.id}.mp4").stat().st_size == job.file_size_bytes


@pytest.mark.parametrize("deck", ["/../secret.pptx", "/decks/../../secret.pptx", "/link/secret.pptx"])
def test_a_key_that_leads_out_of_the_store_fails_at_once(
    db: DatabaseManager, store: Path, deck: str, tmp_path: Path
) -> None:
    if not (store / "link").exists():
        os.symlink(tmp_path, store / "link")
    job = made(db, deck)
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert job.error_message == f"OutsideStore: {deck}: leads out of the store; use a key below it"


def test_a_voice_outside_the_store_fails_at_once(db: DatabaseManager, store: Path) -> None:
    assert "leads out of the store" in made(db, "/talk.pptx", "/../ada.wav").error_message


def test_a_deck_that_is_none_fails_at_once(db: DatabaseManager, store: Path) -> None:
    samples.make_broken_deck(store / "broken.pptx")
    job = made(db, "/broken.pptx")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert job.error_message.startswith(f"BadDeck: {store / 'broken.pptx'}: not a PowerPoint deck")


def test_a_voice_that_cannot_be_read_is_tried_again(db: DatabaseManager, store: Path) -> None:
    job = made(db, "/talk.pptx", "/nobody.wav")
    assert (job.status, job.attempt) == (JobStatus.PENDING, 1)
    assert "there is no such WAV file" in job.error_message


def test_a_cancelled_job_is_left_between_two_slides(
    db: DatabaseManager, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = []

    def speak(notes: str, path: Path, *, voice_sample: Path) -> None:
        spoken.append(notes)
        PresentationJob.get().cancel()

    monkeypatch.setattr(video_worker, "speak", speak)
    job = made(db, "/talk.pptx")
    assert (job.status, spoken) == (JobStatus.CANCELLED, ["One."])
