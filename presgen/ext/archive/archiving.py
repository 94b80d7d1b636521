"""Moves old finished jobs into a folder, batch by batch; and deletes for good what was soft-deleted long ago."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from ... import validation
from ...clock import database_now
from ...errors import ValidationError
from ...manager import DatabaseManager
from ...models import JobEvent, PresentationJob
from ...roles import require_all_rows
from ...status import JobStatus
from . import catalog, rows
from .columns import require_alone
from .compression import suffix_of
from .folder import Folder
from .manifest import Manifest
from .settling import durably, settle
from .storing import ACTOR, Progress, store

RETENTION: Final[Mapping[JobStatus, timedelta]] = {
    JobStatus.COMPLETED: timedelta(days=90),
    JobStatus.FAILED: timedelta(days=90),
    JobStatus.CANCELLED: timedelta(days=30),
}
"""How long finished jobs stay in the database; those of a status that is not named stay for good."""
BATCH: Final = 5_000
"""Jobs a file."""
BATCH_MAX: Final = 30_000
_AGE_MAX: Final = timedelta(days=36_525)
_FINISHED: Final = tuple(status for status in JobStatus if status.is_finished)


def run(
    manager: DatabaseManager,
    folder: Path | str,
    *,
    retention: Mapping[JobStatus, timedelta] = RETENTION,
    batch: int = BATCH,
    compression: str = "gzip",
    progress: Progress | None = None,
) -> int:
    """Move the jobs that ended longer ago than their status is kept, with their events, to files; gives their number.

    A file holds at most `batch` jobs, and is on the disk before they leave the database, in one transaction a file: so
    this can be broken off anywhere and run again, and be run by several at once, but not inside a transaction.
    `compression` is gzip or, with the extra `zstd`, zstd. Jobs that somebody else has locked are left for the next
    time. Raises ConfigurationError for a login that sees some rows only, ArchiveError for a folder that is another
    database's, ValidationError.
    """
    batch = validation.argument(validation.between(1, BATCH_MAX), batch, "batch")
    target, suffix, kept = Folder(folder), suffix_of(compression), _kept(retention)
    database = manager.database
    with durably(database, "archive.run()"), manager.acting_as(actor=ACTOR):
        require_alone(database)
        for model in (PresentationJob, JobEvent):
            require_all_rows(database, model._meta.table_name)
        owner, cutoffs = catalog.database_id(database), _cutoffs(database, kept)
        with target.alone(owner):
            manager.run_in_transaction(partial(settle, database, target))
        total, done = rows.count_due(database, cutoffs) if progress is not None else 0, 0
        for manifest in _archived(manager, target, owner, cutoffs, batch, suffix):
            done += manifest.jobs
            if progress is not None:
                progress(done, max(done, total))
        return done


def count_due(manager: DatabaseManager, *, retention: Mapping[JobStatus, timedelta] = RETENTION) -> int:
    """How many jobs run() would archive now."""
    kept = _kept(retention)
    with manager.session() as database:
        require_all_rows(database, PresentationJob._meta.table_name)
        return rows.count_due(database, _cutoffs(database, kept))


def purge(manager: DatabaseManager, *, older_than: timedelta, batch: int = BATCH) -> int:
    """Delete for good the finished jobs that were soft-deleted longer ago than that; gives their number.

    In transactions of at most `batch` jobs. Archives keep what they have.
    """
    batch = validation.argument(validation.between(1, BATCH_MAX), batch, "batch")
    age = _age(older_than, "older_than")
    job = PresentationJob
    manager.require_binding()
    with manager.session(), manager.acting_as(actor=ACTOR):
        require_all_rows(manager.database, job._meta.table_name)
        is_old = (job.deleted_at < database_now(manager.database) - age) & job.status.in_(_FINISHED)
        chosen = job.select(job.id).where(is_old).order_by(job.id).limit(batch)

        def purge_batch() -> int:
            return int(job.delete().where(is_old, job.id.in_(chosen)).execute())

        return sum(iter(partial(manager.run_in_transaction, purge_batch), 0))


def _archived(
    manager: DatabaseManager,
    folder: Folder,
    owner: str,
    cutoffs: Mapping[JobStatus, datetime],
    batch: int,
    suffix: str,
) -> Iterator[Manifest]:
    """Archive batch by batch, each a file and a transaction."""
    after = 0
    while True:
        with folder.alone(owner):
            step = partial(_archive_batch, manager, folder, cutoffs, after, batch, suffix)
            manifest = manager.run_in_transaction(step)
            if manifest is None:
                return
            folder.seal(manifest)
        yield manifest
        after = manifest.last_job_id


def _archive_batch(
    manager: DatabaseManager,
    folder: Folder,
    cutoffs: Mapping[JobStatus, datetime],
    after: int,
    batch: int,
    suffix: str,
) -> Manifest | None:
    database = manager.database
    settle(database, folder)  # what an attempt has left that this one repeats
    rows.be_exact(database)
    job_ids = rows.due_job_ids(database, cutoffs, after=after, limit=batch)
    if not job_ids:
        return None
    lines = rows.lines_of(database, job_ids)
    manifest = store(manager, folder, lines, suffix)
    rows.delete(database, job_ids)
    return manifest


def _cutoffs(database: Any, kept: Mapping[JobStatus, timedelta]) -> dict[JobStatus, datetime]:
    now = database_now(database)
    return {status: now - age for status, age in kept.items()}


def _kept(retention: Mapping[JobStatus, timedelta]) -> dict[JobStatus, timedelta]:
    """How long each status is kept; raises ValidationError for one that is not finished, and where there is none."""
    kept: dict[JobStatus, timedelta] = {}
    for name, age in validation.argument(validation.mapping, retention, "retention").items():
        if name not in _FINISHED:
            known = ", ".join(_FINISHED)
            raise ValidationError(
                f"retention is for {known}, not for {validation.shown(name)}", field="retention", rule="status"
            )
        kept[JobStatus(name)] = _age(age, "retention")
    if not kept:
        raise ValidationError("retention names no status", field="retention", rule="required")
    return kept


def _age(age: Any, name: str) -> timedelta:
    if isinstance(age, timedelta) and timedelta(0) <= age <= _AGE_MAX:
        return age
    raise ValidationError(f"{name} must be a timedelta, not negative and of 100 years at most", field=name, rule="type")
