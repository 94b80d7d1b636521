"""A worker that makes videos: `python -m presgen.examples.video_worker`, with DATABASE_URL set.

Keys such as /decks/talk.pptx are files below the folder that PRESGEN_DEMO_STORE names, as they would be in a bucket.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from presgen import DatabaseManager, JobStatus, PresentationJob, Worker
from presgen.examples.studio import BadDeck, StudioError, assemble, read_deck, render_slides, speak

STORE = Path(os.environ.get("PRESGEN_DEMO_STORE", "store")).absolute()
# With a short lease the others soon take over from a worker that was killed.
LEASE_SECONDS = float(os.environ.get("PRESGEN_DEMO_LEASE", "10"))


class OutsideStore(StudioError):
    """A key leads out of the store."""


def make_video(job: PresentationJob) -> None:
    """Turn the job's deck into a narrated video."""
    try:
        deck = stored(job.s3_pptx_path)
        voice = stored(job.voice_clone.s3_path)
        slides = read_deck(deck)
    except (BadDeck, OutsideStore) as error:
        job.fail(error, retry=False)  # it would not get better
        return
    with TemporaryDirectory(prefix="presgen-") as workshop:
        pictures = render_slides(deck, workshop)

        job.advance(JobStatus.SYNTHESIZING_AUDIO, slides_count=len(slides), progress=0.2)
        audio = []
        for number, slide in enumerate(slides, start=1):
            audio.append(Path(workshop, f"{number}.wav"))
            speak(slide.notes, audio[-1], voice_sample=voice)
            job.heartbeat(progress=0.2 + 0.5 * number / len(slides))

        job.advance(JobStatus.ASSEMBLING_VIDEO, progress=0.7)
        key = video_key(job)
        video = assemble(pictures, audio, stored(key))
    job.complete(s3_video_path=key, video_duration_seconds=video.seconds, file_size_bytes=video.size)


def stored(key: str) -> Path:
    """The file that a key stands for; OutsideStore for one that climbs out of the store."""
    path = STORE / key.lstrip("/")
    if not path.resolve().is_relative_to(STORE.resolve()):
        raise OutsideStore(f"{key}: leads out of the store; use a key below it")
    return path


def video_key(job: PresentationJob) -> str:
    """/decks/talk.pptx becomes /videos/talk-7.mp4: with the job's id, for a deck may have many videos."""
    name = job.s3_pptx_path.removesuffix(".pptx").replace("/decks/", "/videos/", 1)
    return f"{name}-{job.id}.mp4"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with DatabaseManager.from_env() as db:
        Worker(db, make_video, lease=LEASE_SECONDS, poll=0.5).run()
