"""backup: make, list, verify, restore and rotate backups, and practise a recovery."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from ..ext import backup
from .columns import print_json, print_table
from .connection import open_manager
from .progress import shown_progress

_folder = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
_name = click.argument("name", required=False)


@click.group("backup")
def backup_group() -> None:
    """Make, list, verify, restore and rotate backups of the whole database."""


@backup_group.command("create")
@_folder
@click.pass_context
def create(context: click.Context, folder: Path) -> None:
    """Back the database up into FOLDER, as it is at one moment, while it is written to."""
    with shown_progress("tables") as progress:
        made = backup.create(open_manager(context), folder, progress=progress)
    click.echo(f"{made.name}: {made.rows} rows, {made.bytes} bytes")


@backup_group.command("list")
@_folder
@click.option("--json", "as_json", is_flag=True, help="Print the manifests as a JSON document.")
def list_backups(folder: Path, as_json: bool) -> None:
    """List the backups in FOLDER, oldest first."""
    _print(backup.backups(folder), as_json=as_json)


@backup_group.command("verify")
@_folder
@_name
@click.option("--all", "everything", is_flag=True, help="Every backup of the folder, not the latest.")
@click.option("--embedded", is_flag=True, help="Restore on an embedded server, not the database's own.")
@click.pass_context
def verify(context: click.Context, folder: Path, name: str | None, everything: bool, embedded: bool) -> None:
    """Restore the backup NAME, by default the latest, into a scratch database, and compare every table."""
    if everything and name is not None:
        raise click.UsageError("name a backup, or say --all")
    names = [found.name for found in backup.backups(folder)] if everything else [name]
    manager = None if embedded else open_manager(context)
    for each in names:
        with shown_progress("tables") as progress:
            good = backup.verify(folder, name=each, manager=manager, progress=progress)
        click.echo(f"{good.name} gives back its {good.rows} rows")


@backup_group.command("restore")
@_folder
@_name
@click.option("--no-owners", is_flag=True, help="Everything belongs to the login, and nobody else has rights.")
@click.pass_context
def restore(context: click.Context, folder: Path, name: str | None, no_owners: bool) -> None:
    """Load the backup NAME, by default the latest, into the database, which has to be empty."""
    with shown_progress("tables") as progress:
        done = backup.restore(open_manager(context), folder, name=name, keep_owners=not no_owners, progress=progress)
    click.echo(f"{done.name} is restored: {done.rows} rows")


@backup_group.command("rotate")
@_folder
@click.option("--daily", default=7, show_default=True, type=click.IntRange(min=0), help="Days whose last is kept.")
@click.option("--weekly", default=4, show_default=True, type=click.IntRange(min=0), help="Weeks whose last is kept.")
@click.option("--monthly", default=12, show_default=True, type=click.IntRange(min=0), help="Months whose last is kept.")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
def rotate(folder: Path, daily: int, weekly: int, monthly: int, dry_run: bool) -> None:
    """Remove old backups from FOLDER; the latest always stays."""
    removed = backup.rotate(folder, daily=daily, weekly=weekly, monthly=monthly, dry_run=dry_run)
    for manifest in removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {manifest.name}")
    click.echo(f"backups {'to remove' if dry_run else 'removed'}: {len(removed)}")


@backup_group.command("drill")
@_folder
@click.option("--jobs", default=1_000, show_default=True, type=click.IntRange(min=2), help="Jobs to lose and get back.")
def drill(folder: Path, jobs: int) -> None:
    """Practise a point-in-time recovery on embedded servers in FOLDER, which has to be empty."""
    recovered = backup.drill(folder, jobs=jobs, tell=_tell)
    click.echo(f"every job up to the restore point is back: {recovered}")


def _tell(what: str, seconds: float, jobs: int | None) -> None:
    click.echo(f"{seconds:6.1f} s  {what}" + ("" if jobs is None else f" ({jobs} jobs)"))


def _print(manifests: Iterable[backup.Manifest], *, as_json: bool) -> None:
    if as_json:
        print_json({"backups": [manifest.as_dict() for manifest in manifests]})
        return
    rows: Iterable[tuple[Any, ...]] = (
        (found.name, found.moment, f"{found.backend} {found.version or ''}".strip(), found.rows, found.bytes)
        for found in manifests
    )
    print_table(("backup", "of", "database", "rows", "bytes"), rows)
