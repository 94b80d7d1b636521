"""What `presgen watch` shows: a frame on the terminal's other screen, or as plain text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final

import click
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..queue_metrics import RATE_WINDOW_SECONDS, FinishedPerMinute, JobInHand
from ..status import RUNNING, JobStatus
from .columns import printable

# From here on a transaction, or a job that no worker takes, is worth a line.
OLD_SNAPSHOT_SECONDS: Final = 300
NEGLECTED_SECONDS: Final = 60

_COLORS: Final = {JobStatus.COMPLETED: "green", JobStatus.FAILED: "red", JobStatus.PENDING: "dim"}
_PLAIN_WIDTH: Final = 120
# The lines that a frame takes beside the rows of its last table.
_FRAME_LINES: Final = 17


@dataclass(frozen=True)
class Look:
    """What one look at the database has found."""

    jobs_by_status: Mapping[str, int]
    queue: Mapping[str, Any]
    rates: FinishedPerMinute
    in_hand: list[JobInHand]
    taken_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    ended: float = field(default_factory=time.monotonic)


class Screen:
    """Draws frames on the terminal's other screen; the first one comes back at the end of the block."""

    def __init__(self, title: str, *, every_seconds: float) -> None:
        self._title = f"every {every_seconds:g} s, Ctrl-C ends   {title}"
        self._live = Live(screen=True, auto_refresh=False)

    def __enter__(self) -> Screen:
        try:
            self._live.start()
        except BaseException:  # Ctrl-C in the middle of it
            self._live.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, look: Look | None, trouble: str | None) -> None:
        """Show the latest look there is, and why there is no newer one."""
        lines: list[Any] = [Text(printable(self._title), style="dim", no_wrap=True, overflow="ellipsis")]
        if trouble is not None:
            since = "" if look is None else f" for {duration(time.monotonic() - look.ended)}"
            lines.append(Text(printable(f"no answer{since}: {trouble}"), style="bold red"))
        if look is not None:
            room = max(1, self._live.console.height - _FRAME_LINES - len(problems(look)) - len(lines))
            lines += _parts(look, rows=room, is_live=True)
        self._live.update(Group(*lines), refresh=True)


def print_frame(look: Look) -> None:
    """Print one frame as plain text."""
    console = Console(width=_PLAIN_WIDTH, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(*_parts(look, rows=len(look.in_hand), is_live=False), sep="\n")
    click.echo("\n".join(map(str.rstrip, captured.get().splitlines())))


def problems(look: Look) -> list[str]:
    """A line for each thing that somebody has to look after, and where to begin."""
    lines = []
    expired, oldest = look.queue["expired_leases"], look.queue["oldest_claimable_seconds"] or 0
    dead, snapshot = look.jobs_by_status[JobStatus.FAILED], look.queue["oldest_snapshot_seconds"] or 0
    if expired:
        lines.append(f"expired leases: {expired}; the worker crashed or hangs, and the next claim takes over")
    if oldest > NEGLECTED_SECONDS and not look.queue["running_jobs"]:
        lines.append(f"no job in hand, and one has been due for {duration(oldest)}: does a worker run?")
    if dead:
        lines.append(f"failed for good: {dead}; see: presgen dead list")
    if snapshot > OLD_SNAPSHOT_SECONDS:
        lines.append(f"a transaction is {duration(snapshot)} old; until it ends, dead rows stay")
    return lines


def duration(seconds: float | None) -> str:
    """Seconds for people, in the unit that leaves two or three digits; `-` for none."""
    if seconds is None:
        return "-"
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if abs(seconds) < limit:
            return f"{seconds / size:.{1 if abs(seconds) < 10 * size else 0}f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def _parts(look: Look, *, rows: int, is_live: bool) -> Iterator[Any]:
    for line in problems(look):
        yield Text(f"! {line}", style="bold red", no_wrap=True, overflow="ellipsis")
    yield _summary(look)
    yield _stages(look)
    if look.in_hand:
        yield _jobs_in_hand(look.in_hand[:rows], is_live=is_live)
        hidden = look.queue["running_jobs"] - len(look.in_hand[:rows])
        if hidden > 0:
            yield Text(f"  and {hidden} more", style="dim")
    else:
        yield Text("no job is in a worker's hand", style="dim")


def _summary(look: Look) -> Any:
    facts = Table.grid(padding=(0, 2))
    jobs = Text("  ").join(
        Text(f"{look.jobs_by_status[status]} {status}", style=_COLORS.get(status, "yellow"))
        for status in JobStatus
        if not status.is_running
    )
    queue, rates = look.queue, look.rates
    facts.add_row("jobs", jobs)
    waiting = f"{duration(queue['oldest_claimable_seconds'])} for the oldest that is due"
    facts.add_row("waiting", f"{waiting}, {queue['retrying_jobs']} for another attempt")
    facts.add_row(
        "a minute",
        f"{rates.completed:.1f} completed, {rates.failed:.1f} failed, {rates.returned:.1f} back to the queue "
        f"(over {duration(RATE_WINDOW_SECONDS)})",
    )
    if queue["dead_tuples"] is not None:
        held_up = duration(queue["oldest_snapshot_seconds"])
        facts.add_row("vacuum", f"{queue['dead_tuples']} dead rows, oldest transaction {held_up}")
    facts.add_row("seen", f"{look.taken_at:%H:%M:%SZ}")
    return facts


def _stages(look: Look) -> Table:
    table = Table("stage", box=box.SIMPLE)
    for heading in ("in hand", "p50", "p95", "stays"):
        table.add_column(heading, justify="right")
    for stage in RUNNING:
        stays = look.queue["stage_seconds"][stage]
        now = str(look.jobs_by_status[stage])
        table.add_row(stage.value, now, duration(stays["p50"]), duration(stays["p95"]), str(stays["count"]))
    return table


def _jobs_in_hand(jobs: list[JobInHand], *, is_live: bool) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("worker", overflow="ellipsis")  # the one that gives way on a narrow terminal
    for heading in ("job", "stage", "try", "progress", "lease", "silent"):
        table.add_column(heading, no_wrap=True)
    for job in jobs:
        has_expired = job.lease_seconds_left is not None and job.lease_seconds_left < 0
        table.add_row(
            Text(printable(job.worker or "-")),
            str(job.id),
            job.status.value,
            str(job.attempt),
            ProgressBar(total=1.0, completed=job.progress, width=10) if is_live else f"{job.progress:.0%}",
            _lease(job.lease_seconds_left),
            duration(max(0.0, job.silent_seconds)),
            style="red" if has_expired else "",
        )
    return table


def _lease(seconds_left: float | None) -> str:
    if seconds_left is None:
        return "none"
    return f"{duration(seconds_left)} left" if seconds_left >= 0 else f"{duration(-seconds_left)} over"
