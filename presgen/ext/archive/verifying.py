"""Reads archives whole, and compares them with what the database knows of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from ...errors import ArchiveError
from ...manager import DatabaseManager
from . import catalog, rows
from .folder import Folder
from .manifest import Manifest
from .storing import Progress


def verify(
    folder: Path | str, *, manager: DatabaseManager | None = None, progress: Progress | None = None
) -> list[ArchiveError]:
    """Read every archive of the folder; gives an error for each that is damaged, in their order.

    With a `manager` also for archives of another database, for those whose jobs the database has as well, and for
    those that it has written and that are in this folder no more. `progress(done, total)` counts archives.
    """
    source = Folder(folder)
    names = source.names()
    if manager is not None:
        catalog.database_id(manager.database)  # which raises where the feature is not installed
    found: list[ArchiveError] = []
    for number, name in enumerate(names, start=1):
        found += _damage(source, name, manager)
        if progress is not None:
            progress(number, len(names))
    if manager is not None:
        found += _missing(manager, names)
    return found


def _damage(folder: Folder, name: str, manager: DatabaseManager | None) -> Iterator[ArchiveError]:
    try:
        manifest = folder.read(name)
        folder.require_intact(manifest)
        lines = [rows.decoded(text, source=manifest.file) for text in folder.lines(manifest)]
        job_ids = [line["job"]["id"] for line in lines]
        events = sum(len(line["events"]) for line in lines)
        if (min(job_ids), max(job_ids), events) != (manifest.first_job_id, manifest.last_job_id, manifest.events):
            raise ArchiveError(f"{manifest.name}.json does not tell what {manifest.file} holds")
        if manager is not None:
            _require_here_alone(manager, manifest, job_ids)
    except ArchiveError as error:
        yield error


def _require_here_alone(manager: DatabaseManager, manifest: Manifest, job_ids: list[int]) -> None:
    database = manager.database
    with manager.session():
        catalog.require_known(manifest, catalog.known(database, [manifest.name]))
        doubled = rows.existing(database, job_ids)
    if doubled:
        raise ArchiveError(
            f"the database has {len(doubled)} jobs of {manifest.file} as well, the first is job {min(doubled)}"
        )


def _missing(manager: DatabaseManager, names: Collection[str]) -> Iterator[ArchiveError]:
    with manager.session() as database:
        known = catalog.known(database)
    for name, record in known.items():
        if not record.is_removed and name not in names:
            yield ArchiveError(f"{name} is not in this folder")
