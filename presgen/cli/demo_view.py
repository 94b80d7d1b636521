"""What the demo shows while it runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, Protocol

import click

from ..models import JobEvent, PresentationJob
from ..status import JobStatus
from .columns import printable

_COLORS: Final = {JobStatus.COMPLETED: "green", JobStatus.FAILED: "red", JobStatus.PENDING: "dim"}
# The lines that a table takes beside its rows.
_FRAME_LINES: Final = 7


class View(Protocol):
    """Shows the jobs, and what has happened to them since it showed them last."""

    def __enter__(self) -> View: ...
    def __exit__(self, *exc: object) -> None: ...
    def show(self, jobs: Sequence[PresentationJob], events: Sequence[JobEvent]) -> None: ...


def view(name_of: Callable[[str | None], str]) -> View:
    """The view for the stdout that there is; `name_of` gives the name to show for a job's worker."""
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveTable(name_of)
    return PlainLines(name_of)


def deck_of(job: PresentationJob) -> str:
    """The short name of the job's deck."""
    return PurePosixPath(job.s3_pptx_path).stem


class PlainLines:
    """A line for each change of a job's status."""

    def __init__(self, name_of: Callable[[str | None], str]) -> None:
        self._name_of = name_of

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, jobs: Sequence[PresentationJob], events: Sequence[JobEvent]) -> None:
        known = {job.id: job for job in jobs}
        for event in events:
            job = known[event.job_id]
            seconds = (event.at - job.created_at).total_seconds()
            line = f"{seconds:6.1f} s  job {job.id} ({deck_of(job)}): {event.from_status} -> {event.to_status}"
            click.echo(printable(f"{line}  {self._name_of(event.worker)}".rstrip()))


class LiveTable:
    """A table of the jobs, drawn anew in place."""

    def __init__(self, name_of: Callable[[str | None], str]) -> None:
        from rich.live import Live

        self._name_of = name_of
        self._live = Live(auto_refresh=False)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, jobs: Sequence[PresentationJob], events: Sequence[JobEvent]) -> None:
        self._live.update(self._table(jobs), refresh=True)

    def _table(self, jobs: Sequence[PresentationJob]) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Column, Table
        from rich.text import Text

        counts = Counter(job.status for job in jobs)
        summary = ", ".join(f"{counts[status]} {status}" for status in JobStatus if counts[status])
        longest = max(map(len, JobStatus))
        table = Table("job", "deck", Column("status", min_width=longest), "progress", "worker", caption=summary)
        for job in self._fitting(jobs):
            color = _COLORS.get(job.status, "yellow")
            table.add_row(
                str(job.id),
                Text(deck_of(job)),
                Text(job.status, style=color),
                ProgressBar(total=1.0, completed=job.progress, width=24, complete_style=color, finished_style=color),
                Text(self._name_of(job.worker)),
            )
        return table

    def _fitting(self, jobs: Sequence[PresentationJob]) -> Sequence[PresentationJob]:
        """The jobs that the terminal has room for: those in a worker's hand first, then those that wait."""
        room = max(1, self._live.console.height - _FRAME_LINES)
        if len(jobs) <= room:
            return jobs
        return sorted(jobs, key=lambda job: (job.status.is_finished, job.status is JobStatus.PENDING, job.id))[:room]
