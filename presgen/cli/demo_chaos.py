"""The demo's chaos: workers are killed in the middle of their work."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import click

from ..errors import PresgenError
from ..models import JobEvent, PresentationJob
from ..status import JobStatus
from .demo_crew import Crew

# Long enough for a worker's heartbeats, short enough to watch.
LEASE_SECONDS: Final = 3.0
# Jobs have three attempts; a job that is hit once has two left.
_KILL_CHANCE: Final = 0.3


class Chaos:
    """Kills a worker with each job once at most, and with one job at least."""

    def __init__(self, crew: Crew, enabled: bool) -> None:
        self._crew = crew
        self._hit: set[int] = set()
        self._enabled = enabled

    def strike(self, jobs: Iterable[PresentationJob]) -> None:
        """Kill, by chance, a worker that has one of these jobs in hand."""
        candidates = [job for job in jobs if job.status.is_running and job.id not in self._hit] if self._enabled else []
        for job in candidates:
            if self._hit and random.random() > _KILL_CHANCE:
                continue
            name = self._crew.replace(job.worker)
            if name is not None:
                self._hit.add(job.id)
                click.echo(f"chaos: killed {name} with job {job.id} at {job.status}", err=True)

    def report(self, jobs: Sequence[PresentationJob]) -> None:
        """Tell that each video was made once, by the record; raises PresgenError when it was not."""
        if not self._enabled:
            return
        done = JobEvent.select().where(JobEvent.job.in_([job.id for job in jobs]))
        ends = Counter(event.job_id for event in done if event.to_status is JobStatus.COMPLETED)
        made = [job for job in jobs if job.status is JobStatus.COMPLETED]
        if any(ends[job.id] != 1 for job in made) or len({job.s3_video_path for job in made}) != len(made):
            raise PresgenError("a video was made twice")
        click.echo(f"\nchaos: {len(self._hit)} workers killed, {len(made)} videos made, each once")
