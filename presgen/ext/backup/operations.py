"""Makes backups, verifies them, restores them, and removes old ones."""

from __future__ import annotations

import secrets
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ... import validation
from ...clock import database_now, is_sqlite
from ...context import session
from ...durable import sha256_of
from ...errors import BackupError
from ...manager import DatabaseManager
from . import on_postgresql, on_sqlite
from .folder import Folder
from .manifest import Manifest
from .rotation import kept
from .steps import Progress


def create(manager: DatabaseManager, folder: Path | str, *, progress: Progress | None = None) -> Manifest:
    """Back the whole database up into a folder, as it is at one moment, while it is written to.

    On PostgreSQL by pg_dump, which has to be of the server's version or later; the login has to see all rows. The
    manifest has each table's fingerprint in the same snapshot. Raises BackupError, ConfigurationError.
    """
    target, database = Folder(folder), manager.database
    applied = manager.migrations.applied()
    with session(database):
        now = database_now(database)
    name = f"presgen-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    facts: dict[str, Any]
    with target.alone():
        suffix = (on_sqlite if is_sqlite(database) else on_postgresql).SUFFIX
        part = target.part(name + suffix)
        if is_sqlite(database):
            facts = {"tables": on_sqlite.dump(database, part, progress), "backend": "sqlite", "version": 0}
        else:
            facts = {**vars(on_postgresql.dump(database, part, progress)), "backend": "postgresql"}
        manifest = Manifest(
            name=name,
            file=name + suffix,
            sha256=sha256_of(part),
            bytes=part.stat().st_size,
            created_at=now.isoformat(),
            schema=applied[-1] if applied else "",
            **facts,
        )
        target.add(manifest)
    return manifest


def backups(folder: Path | str) -> list[Manifest]:
    """The backups in a folder, oldest first; raises FileNotFoundError for a folder that is missing."""
    return Folder(folder).manifests()


def verify(
    folder: Path | str,
    *,
    name: str | None = None,
    manager: DatabaseManager | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Prove that a backup, by default the latest, gives back what was saved; gives its manifest.

    Its SHA-256 is compared, it is restored into a scratch database, and each table's fingerprint is compared. The
    scratch database is made on the manager's server, for which its login has to have CREATEDB, or without a manager on
    an embedded server that is there for that alone. Raises BackupError.
    """
    source = Folder(folder)
    manifest = source.named(name)
    file = source.file_of(manifest)
    if manifest.backend == "sqlite":
        on_sqlite.verify(file, manifest, progress)
    else:
        on_postgresql.verify(_server_of(manager, manifest), file, manifest, progress)
    return manifest


def restore(
    manager: DatabaseManager,
    folder: Path | str,
    *,
    name: str | None = None,
    keep_owners: bool = True,
    progress: Progress | None = None,
) -> Manifest:
    """Load a backup, by default the latest, into the manager's database, which has to be empty; gives its manifest.

    With the owners and rights that it had, whose roles have to be there, unless `keep_owners` is false. Afterwards each
    table's fingerprint is compared. Raises BackupError, also for a database that has anything, ConfigurationError.
    """
    source = Folder(folder)
    manifest = source.named(name)
    file = source.file_of(manifest)
    database = manager.database
    _require_backend(database, manifest)
    if is_sqlite(database):
        on_sqlite.restore(database, file, manifest, progress)
    else:
        on_postgresql.restore(database.config, file, manifest, progress, keep_owners=keep_owners)
    return manifest


def rotate(
    folder: Path | str, *, daily: int = 7, weekly: int = 4, monthly: int = 12, dry_run: bool = False
) -> list[Manifest]:
    """Remove old backups; gives those that were, or with `dry_run` would be, removed.

    Kept are the last of each of the latest days, weeks (ISO 8601) and months that have one, by UTC, and always the
    latest.
    """
    counts = {"daily": daily, "weekly": weekly, "monthly": monthly}
    counts = {period: validation.argument(validation.at_least(0), count, period) for period, count in counts.items()}
    source = Folder(folder)
    manifests = source.manifests()  # which a folder that is missing ends at
    with source.alone():
        manifests = source.manifests()
        whole = [manifest for manifest in manifests if source.is_there(manifest)]
        names = kept(whole, now=datetime.now(timezone.utc), **counts)
        removed = [manifest for manifest in whole if manifest.name not in names]
        if not dry_run:
            for manifest in removed:
                source.remove(manifest)
    return removed


def _server_of(manager: DatabaseManager | None, manifest: Manifest) -> Any:
    if manager is None:
        return None
    _require_backend(manager.database, manifest)
    return manager.database.config


def _require_backend(database: Any, manifest: Manifest) -> None:
    backend = "sqlite" if is_sqlite(database) else "postgresql"
    if backend != manifest.backend:
        raise BackupError(f"{manifest.file} is a backup of {manifest.backend}, and the database is {backend}")
