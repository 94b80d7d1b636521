"""partitions: what there are of them, and what keeps them."""

from __future__ import annotations

import click

from .columns import print_table
from .connection import open_manager


@click.group("partitions")
def partitions_group() -> None:
    """The partitions of jobs and events; `presgen install partitions` makes them."""


@partitions_group.command("status")
@click.pass_context
def status_command(context: click.Context) -> None:
    """Show each partition: the ids of its jobs, and what they take."""
    from ..ext import partitions

    rows = [
        (one.name, _shown(one.start), _shown(one.end), one.rows, f"{one.bytes / 2**20:.1f} MiB")
        for one in partitions.status(open_manager(context))
    ]
    print_table(("PARTITION", "FROM", "TO", "JOBS (ABOUT)", "SIZE"), rows)


@partitions_group.command("advance")
@click.option("--size", type=click.IntRange(min=1), help="Jobs a partition; default: those of the last 30 days.")
@click.pass_context
def advance_command(context: click.Context, size: int | None) -> None:
    """Create what partitions are missing ahead; to be run daily, by cron for instance."""
    from ..ext import partitions

    click.echo("\n".join(partitions.advance(open_manager(context), size=size)) or "nothing to create")


@partitions_group.command("compact")
@click.pass_context
def compact_command(context: click.Context) -> None:
    """Drop partitions whose jobs are all gone, to the archive for instance."""
    from ..ext import partitions

    click.echo("\n".join(partitions.compact(open_manager(context))) or "nothing to compact")


def _shown(job_id: int | None) -> str:
    return "-" if job_id is None else str(job_id)
