"""The table presgen_archives: which archives a database has written, and which of them it has taken back."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import peewee as pw

from ...clock import is_sqlite
from ...context import session
from ...errors import ArchiveError, ConfigurationError
from .manifest import Manifest

TABLE: Final = "presgen_archives"

_CREATE: Final = """
CREATE TABLE IF NOT EXISTS presgen_archives (
    name VARCHAR(64) NOT NULL PRIMARY KEY,
    sha256 VARCHAR(64) NOT NULL,
    jobs INTEGER NOT NULL,
    archived_at {moment} NOT NULL DEFAULT {now},
    removed_at {moment}
)
"""
# Whose a folder is, for a folder belongs to one database.
_CREATE_IDENTITY: Final = (
    "CREATE TABLE IF NOT EXISTS presgen_archive_owner (database_id VARCHAR(32) NOT NULL PRIMARY KEY)"
)
_IDENTITY: Final = "SELECT database_id FROM presgen_archive_owner"
_WORDS: Final = {
    False: {"moment": "TIMESTAMPTZ", "now": "now()"},
    True: {"moment": "TIMESTAMPTZ", "now": "(strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'))"},
}
_COLUMNS: Final = ("name", "sha256", "jobs", "archived_at", "removed_at")
_DURABLE: Final = "SELECT current_setting('transaction_isolation'), set_config('synchronous_commit', 'on', true)"
# One archiver at a time: between the writing of a file and its COMMIT nobody else may take it for a leftover.
_LOCK_KEY: Final = int.from_bytes(b"archive\0", "big")


def install(database: Any) -> None:
    """Create the record of archives."""
    database.execute_sql(_CREATE.format(**_WORDS[is_sqlite(database)]))
    database.execute_sql(_CREATE_IDENTITY)
    if database.execute_sql(_IDENTITY).fetchone() is None:
        owner = pw.Table("presgen_archive_owner", ("database_id",)).bind(database)
        owner.insert({"database_id": secrets.token_hex(16)}).execute()


def uninstall(database: Any) -> None:
    """Drop the record of archives; their files stay, and this database does not know them any more."""
    for table in (TABLE, "presgen_archive_owner"):
        database.execute_sql(f"DROP TABLE IF EXISTS {table}")


def is_installed(database: Any) -> bool:
    """Whether the database has the record."""
    return bool(database.table_exists(TABLE) and database.table_exists("presgen_archive_owner"))


def database_id(database: Any) -> str:
    """What tells this database from others, but from its copies; raises ConfigurationError where there is no record."""
    with session(database):
        if not is_installed(database):
            raise ConfigurationError("the database keeps no record of archives; run: presgen install archive")
        return str(database.execute_sql(_IDENTITY).fetchone()[0])


def lock(database: Any) -> None:
    """Keep other archivers out until the transaction ends, whose commit then is on the disk when it returns.

    On SQLite, BEGIN IMMEDIATE keeps others out. Raises ConfigurationError under a default isolation that would not show
    what the archiver before has committed.
    """
    if is_sqlite(database):
        return
    database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
    isolation, _ = database.execute_sql(_DURABLE).fetchone()
    if isolation != "read committed":
        raise ConfigurationError(f"archiving needs transactions of READ COMMITTED, and this login's are {isolation}")


def record(database: Any, manifest: Manifest) -> None:
    """Let the database know an archive, from the moment at which the transaction commits."""
    row = {"name": manifest.name, "sha256": manifest.sha256, "jobs": manifest.jobs}
    _archives(database).insert(row).execute()


def record_removal(database: Any, manifest: Manifest, now: Any) -> None:
    """Let the database know that the archive's jobs are elsewhere, from the moment at which the transaction commits."""
    archives = _archives(database)
    archives.update({archives.removed_at: now}).where(archives.name == manifest.name).execute()


class Record(NamedTuple):
    """What the database knows of an archive."""

    sha256: str
    is_removed: bool
    """Whether its jobs are elsewhere by now."""


def known(database: Any, names: Collection[str] | None = None) -> dict[str, Record]:
    """The record of each archive, or of those with these names, by its name."""
    archives = _archives(database)
    query = archives.select(archives.name, archives.sha256, archives.removed_at).order_by(archives.name)
    if names is not None:
        query = query.where(archives.name.in_(names))
    return {name: Record(sha256, removed_at is not None) for name, sha256, removed_at in query.tuples()}


def require_known(manifest: Manifest, found: Mapping[str, Record]) -> Record:
    """The record of the archive; raises ArchiveError for one that this database has not written."""
    record = found.get(manifest.name)
    if record is None or record.sha256 != manifest.sha256:
        raise ArchiveError(
            f"this database has not written {manifest.file}: it is another one's, or this one was restored from an "
            "older backup and has its jobs again; use another folder, or move the file away"
        )
    return record


def _archives(database: Any) -> Any:
    return pw.Table(TABLE, _COLUMNS).bind(database)
