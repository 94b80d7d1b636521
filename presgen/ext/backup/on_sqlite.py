"""Backups of SQLite: its backup API, which copies a database while it is written to."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from ...context import session
from ...errors import BackupError
from .manifest import SUFFIXES, Fingerprint, Manifest
from .steps import Progress, Steps

SUFFIX: Final = SUFFIXES[1]

_TABLES: Final = (
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
)
_ROWS: Final = "SELECT * FROM {table}"


def dump(database: Any, target: Path, progress: Progress | None) -> dict[str, Fingerprint]:
    """Copy the database into a file; gives the fingerprints of the copy. Raises BackupError inside a transaction."""
    if database.in_transaction():
        raise BackupError("a backup inside a transaction would wait for it for ever: commit first")
    with session(database), closing(sqlite3.connect(target)) as copy:
        database.connection().backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, whatever the original's is
    return _fingerprints(target, progress)


def restore(database: Any, source: Path, manifest: Manifest, progress: Progress | None) -> None:
    """Load a backup into an empty database, and compare it with what was saved."""
    verify(source, manifest, progress)
    with session(database):
        found = database.execute_sql("SELECT name FROM sqlite_master LIMIT 1").fetchone()
        if found is not None:
            raise BackupError(f"{database.config.safe_url} is not empty: it has {found[0]}; restore into a new file")
        with _opened(source) as backup:
            backup.backup(database.connection())
        manifest.require_equal(_fingerprints_of(database.connection(), None))


def verify(source: Path, manifest: Manifest, progress: Progress | None) -> None:
    """Open a backup, let SQLite check it, and compare it with what was saved."""
    with _opened(source) as backup:
        (said,) = backup.execute("PRAGMA integrity_check").fetchone()
    if said != "ok":
        raise BackupError(f"{manifest.file} is damaged: {said}")
    manifest.require_equal(_fingerprints(source, progress))


def _fingerprints(source: Path, progress: Progress | None) -> dict[str, Fingerprint]:
    with _opened(source) as backup:
        return _fingerprints_of(backup, progress)


def _fingerprints_of(connection: sqlite3.Connection, progress: Progress | None) -> dict[str, Fingerprint]:
    # Not by the database's own cursor, which has more to do than to read.
    tables = [name for (name,) in sqlite3.Connection.execute(connection, _TABLES)]
    steps, found = Steps(progress, len(tables)), {}
    for table in tables:
        found[table] = _fingerprint(connection, table)
        steps.step()
    return found


def _fingerprint(backup: sqlite3.Connection, table: str) -> Fingerprint:
    rows = checksum = 0
    quoted = '"' + table.replace('"', '""') + '"'
    for row in backup.execute(_ROWS.format(table=quoted)):
        rows += 1
        checksum += int.from_bytes(hashlib.sha256(repr(row).encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return Fingerprint(rows, str(checksum))


@contextmanager
def _opened(source: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"file:{source.absolute().as_uri()[7:]}?mode=ro&immutable=1", uri=True)) as backup:
            yield backup
    except sqlite3.DatabaseError as error:
        raise BackupError(f"{source.name} is damaged: {error}") from None
