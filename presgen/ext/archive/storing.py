"""Writes an archive and lets the database know it: one step of archiving, and of restoring a part."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from ...clock import database_now
from ...manager import DatabaseManager
from . import catalog, rows
from .folder import Folder
from .manifest import Manifest

ACTOR: Final = "archive"
"""Who writes, for the audit log."""

Progress = Callable[[int, int], None]
"""Called with the number of jobs (of archives, by verify()) that are done, and of all."""


def store(
    manager: DatabaseManager, folder: Folder, lines: list[rows.Line], suffix: str, *, replaces: str | None = None
) -> Manifest:
    """Write an archive and record it, in the caller's transaction; it is sealed when that has committed."""
    database = manager.database
    name = f"jobs-{database_now(database):%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(4)}"
    file, summary = folder.write(name, map(rows.encoded, lines), suffix)
    ends = [rows.finished_at(line) for line in lines]
    manifest = Manifest(
        name=name,
        file=file,
        sha256=summary.sha256,
        bytes=summary.bytes,
        jobs=len(lines),
        events=sum(len(line["events"]) for line in lines),
        first_job_id=lines[0]["job"]["id"],
        last_job_id=lines[-1]["job"]["id"],
        first_finished_at=min(ends),
        last_finished_at=max(ends),
        schema=manager.migrations.applied()[-1],
        replaces=replaces,
    )
    folder.write_manifest(manifest)
    catalog.record(database, manifest)
    return manifest
