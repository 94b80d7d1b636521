"""archive: move old jobs into files, look at them there, and bring them back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from ..ext import archive
from ..status import JobStatus
from .columns import print_facts, print_json, print_table
from .connection import open_manager
from .options import all_of, moment_option
from .progress import shown_progress

_SHOWN_AT_ONCE: Final = 100


def _in_days(_context: click.Context, _option: click.Parameter, value: str) -> timedelta | None:
    """A number of days; None for never."""
    if value == "never":
        return None
    try:
        return timedelta(days=float(value))
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r} is neither a number of days nor: never") from None


def _keep_option(status: JobStatus) -> Any:
    return click.option(
        f"--{status}",
        callback=_in_days,
        default=str(archive.RETENTION[status].days),
        show_default=True,
        metavar="DAYS|never",
        help=f"How long {status} jobs stay in the database.",
    )


_retention_options = all_of(*map(_keep_option, archive.RETENTION))
_folder = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))


@click.group("archive")
def archive_group() -> None:
    """Move old finished jobs into files, search and verify them there, bring them back."""


@archive_group.command("run")
@_folder
@_retention_options
@click.option(
    "--batch", default=archive.BATCH, show_default=True, type=click.IntRange(1, archive.BATCH_MAX), help="Jobs a file."
)
@click.option("--zstd", is_flag=True, help="Compress with Zstandard in place of gzip.")
@click.option("--dry-run", is_flag=True, help="Only tell how many jobs it would be.")
@click.pass_context
def run(
    context: click.Context, /, folder: Path, batch: int, zstd: bool, dry_run: bool, **days: timedelta | None
) -> None:
    """Move the jobs that ended long ago, with their events, into files in FOLDER; again, what is left."""
    retention = _retention(days)
    manager = open_manager(context)
    if dry_run:
        click.echo(f"jobs to archive: {archive.count_due(manager, retention=retention)}")
        return
    with shown_progress("jobs") as progress:
        count = archive.run(
            manager,
            folder,
            retention=retention,
            batch=batch,
            compression="zstd" if zstd else "gzip",
            progress=progress,
        )
    click.echo(f"jobs archived: {count}")


@archive_group.command("list")
@_folder
@click.option("--json", "as_json", is_flag=True, help="Print the manifests as a JSON document.")
def list_archives(folder: Path, as_json: bool) -> None:
    """List the archives in FOLDER."""
    manifests = archive.manifests(folder)
    if as_json:
        print_json({"archives": [manifest.as_dict() for manifest in manifests]})
        return
    rows = (
        (found.name, found.jobs, f"{found.first_job_id}-{found.last_job_id}", found.last_finished_at, found.bytes)
        for found in manifests
    )
    print_table(("archive", "jobs", "ids", "last finished", "bytes"), rows)


@archive_group.command("verify")
@_folder
@click.option("--files-only", is_flag=True, help="Do not compare with what the database knows.")
@click.pass_context
def verify(context: click.Context, folder: Path, files_only: bool) -> None:
    """Read every archive in FOLDER whole; print what is wrong, and exit with 1 if anything is."""
    with shown_progress("archives") as progress:
        manager = None if files_only else open_manager(context)
        damage = archive.verify(folder, manager=manager, progress=progress)
    for error in damage:
        click.echo(str(error))
    click.echo(f"{len(damage)} things are wrong" if damage else "every archive is whole")
    if damage:
        context.exit(1)


@archive_group.command("search")
@_folder
@click.option("--job", "job_id", type=int, metavar="ID", help="Only this job.")
@click.option("--owner", type=int, metavar="ID", help="Only this user's jobs.")
@click.option("--status", type=click.Choice([str(status) for status in archive.RETENTION]), help="Only such jobs.")
@click.option("--text", help="Only jobs with this in a path, the error, the worker or the key, in any case.")
@moment_option("--since", help='Only jobs that ended then or later, as "2026-01-31 14:00:00" in UTC.')
@moment_option("--until", help="Only jobs that ended before then.")
@click.option("--limit", default=_SHOWN_AT_ONCE, show_default=True, type=click.IntRange(min=1), help="Jobs at most.")
@click.option("--json", "as_json", is_flag=True, help="Print all columns and the history as a JSON document.")
def search(folder: Path, limit: int, as_json: bool, **conditions: Any) -> None:
    """Find jobs in the archives of FOLDER, where they are; needs no database."""
    found = list(islice(archive.search(folder, **conditions), limit + 1))
    shown = found[:limit]
    if as_json:
        print_json({"jobs": [job.as_dict() for job in shown], "more": len(found) > limit})
        return
    rows = ((job.job.id, job.job.status, job.job.owner_id, job.job.completed_at, job.archive) for job in shown)
    print_table(("id", "status", "owner", "finished", "archive"), rows)
    if len(found) > limit:
        click.echo("there are more: --limit")


@archive_group.command("restore")
@_folder
@click.option("--job", "job_ids", type=int, multiple=True, metavar="ID", help="This job; again for each.")
@click.option("--archive", "names", multiple=True, metavar="NAME", help="The jobs of this archive; again for each.")
@click.option("--all", "everything", is_flag=True, help="The jobs of every archive.")
@click.pass_context
def restore(
    context: click.Context, folder: Path, job_ids: tuple[int, ...], names: tuple[str, ...], everything: bool
) -> None:
    """Put archived jobs back into the database, as they were."""
    if [bool(job_ids), bool(names), everything].count(True) != 1:
        raise click.UsageError("name jobs by --job, or archives by --archive, or say --all")
    manager = open_manager(context)
    with shown_progress("jobs") as progress:
        count = archive.restore(
            manager,
            folder,
            names=names or None,
            job_ids=job_ids or None,
            everything=everything,
            progress=progress,
        )
    click.echo(f"jobs restored: {count}")


@archive_group.command("purge")
@click.option("--older-than", required=True, type=click.FloatRange(min=0), metavar="DAYS", help="Since then deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def purge(context: click.Context, older_than: float, yes: bool) -> None:
    """Delete for good the finished jobs that were soft-deleted longer ago than that."""
    manager = open_manager(context)
    if not yes:
        click.confirm(f"Jobs that were soft-deleted more than {older_than:g} days ago will be lost. Go on?", abort=True)
    try:
        age = timedelta(days=older_than)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{older_than} is no number of days", param_hint="--older-than") from None
    click.echo(f"jobs deleted: {archive.purge(manager, older_than=age)}")


@archive_group.command("units")
@_folder
@click.option("--to", "target", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Write them there.")
def units(folder: Path, target: Path | None) -> None:
    """Print a line for cron, and units for systemd, that archive into FOLDER every night."""
    command, folder = [sys.executable, "-m", "presgen"], folder.resolve()
    texts = archive.systemd_units(command, folder)
    if target is not None:
        for name, text in texts.items():
            (target / name).write_text(text)
        print_facts((name, str(target / name)) for name in texts)
        return
    click.echo(archive.cron_line(command, folder))
    for name, text in texts.items():
        click.echo(f"\n# {name}\n{text}", nl=False)


def _retention(days: Mapping[str, timedelta | None]) -> dict[JobStatus, timedelta]:
    return {JobStatus(name): age for name, age in days.items() if age is not None}
