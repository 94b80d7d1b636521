"""Brings archived jobs back into the database, as they were."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

from ... import validation
from ...clock import server_time
from ...errors import ArchiveError, ConfigurationError, StatementInvalid, ValidationError
from ...manager import DatabaseManager
from ...models import PresentationJob
from . import catalog, rows
from .folder import Folder
from .manifest import Manifest
from .settling import durably, settle
from .storing import ACTOR, Progress, store


def restore(
    manager: DatabaseManager,
    folder: Path | str,
    *,
    names: Iterable[str] | None = None,
    job_ids: Iterable[int] | None = None,
    everything: bool = False,
    progress: Progress | None = None,
) -> int:
    """Put jobs and their events back into the database, each value as it was; gives the number of jobs.

    Those of the archives `names`, those of `job_ids`, or all with `everything`. They leave their archive with that,
    which is set aside as `….restored`; one of which some jobs stay is written anew. One transaction an archive, so this
    can be broken off and run again, but not inside a transaction. The login has to own the tables, for the history is
    nobody else's to write. Raises ArchiveError for a damaged file, for jobs that are in no archive, that the database
    has already, or whose owner or voice is gone.
    """
    source = Folder(folder)
    everything = validation.argument(validation.flag, everything, "everything")
    if [names is not None, job_ids is not None, everything].count(True) != 1:
        raise ValidationError("name archives or job_ids, or say everything=True", field="names", rule="required")
    named = None if names is None else set(validation.argument(validation.several, names, "names"))
    wanted = None if job_ids is None else _clean_ids(validation.argument(validation.several, job_ids, "job_ids"))
    if not source.path.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source.path))
    owner = catalog.database_id(manager.database)
    with durably(manager.database, "archive.restore()"), manager.acting_as(actor=ACTOR):
        with source.alone(owner):
            manager.run_in_transaction(partial(settle, manager.database, source))
        archives = _chosen(source, named, wanted)
        total, restored = sum(manifest.jobs for manifest in archives), 0
        left = None if wanted is None else set(wanted)
        for manifest in archives:
            back = _restore_archive(manager, source, owner, manifest, left)
            restored += len(back)
            if left is not None:
                left -= back
            if progress is not None:
                progress(restored, total if left is None else len(wanted or ()))
    if left:
        raise ArchiveError(f"{len(left)} jobs are in no archive of {source.path}, the first is job {min(left)}")
    return restored


def _restore_archive(
    manager: DatabaseManager, folder: Folder, owner: str, manifest: Manifest, wanted: set[int] | None
) -> set[int]:
    with folder.alone(owner):
        try:
            back, rest = manager.run_in_transaction(partial(_restore_in_transaction, manager, folder, manifest, wanted))
        except StatementInvalid as error:
            if error.sqlstate != "42501":
                raise
            raise ConfigurationError(
                f"to restore jobs, connect as the role that owns presgen's tables: {error}"
            ) from None
        if rest is not None:
            folder.seal(rest)
        if back:
            folder.set_aside(manifest, is_sealed=True)
        return back


def _restore_in_transaction(
    manager: DatabaseManager, folder: Folder, manifest: Manifest, wanted: set[int] | None
) -> tuple[set[int], Manifest | None]:
    """Insert the wanted jobs, and write an archive of the others; gives the ids of the former and the latter."""
    database = manager.database
    settle(database, folder)
    rows.be_exact(database)
    if manifest not in folder.sealed():  # somebody else has taken it back
        return set(), None
    folder.require_intact(manifest)
    lines = [rows.decoded(text, source=manifest.file) for text in folder.lines(manifest)]
    back = [line for line in lines if wanted is None or line["job"]["id"] in wanted]
    if not back:
        return set(), None
    _require_room(manager, manifest, back)
    rows.insert(database, back)
    catalog.record_removal(database, manifest, server_time(database))
    restored = {line["job"]["id"] for line in back}
    rest = [line for line in lines if line["job"]["id"] not in restored]
    suffix = Path(manifest.file).suffix
    return restored, store(manager, folder, rest, suffix, replaces=manifest.name) if rest else None


def _require_room(manager: DatabaseManager, manifest: Manifest, lines: Collection[rows.Line]) -> None:
    """Raise ArchiveError for jobs that the database has already, and for those whose owner or voice is gone."""
    doubled = rows.existing(manager.database, [line["job"]["id"] for line in lines])
    if doubled:
        raise ArchiveError(
            f"the database has {len(doubled)} jobs of {manifest.file} already, the first is job {min(doubled)}"
        )
    orphans = rows.orphans(manager.database, lines)
    if orphans:
        raise ArchiveError(
            f"the owner or the voice of {len(orphans)} jobs of {manifest.file} is gone, the first is job {orphans[0]}: "
            "restore the others by their ids"
        )


def _chosen(folder: Folder, names: set[str] | None, wanted: Collection[int] | None) -> list[Manifest]:
    archives = folder.sealed()
    if names is not None:
        for name in names - {manifest.name for manifest in archives}:
            raise ArchiveError(f"{folder.path} has no archive {validation.shown(name)}")
        return [manifest for manifest in archives if manifest.name in names]
    if wanted is not None:
        return [manifest for manifest in archives if any(map(manifest.may_have, wanted))]
    return archives


def _clean_ids(job_ids: Iterable[int]) -> set[int]:
    return {PresentationJob.id.clean_value(job_id) for job_id in job_ids}
