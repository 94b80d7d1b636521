"""Manifest: what a backup holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from ...durable import Document
from ...errors import BackupError

FORMAT: Final = 1
SUFFIXES: Final = (".dump", ".sqlite3")
"""Of the files of PostgreSQL's backups and of SQLite's."""


@dataclass(frozen=True)
class Fingerprint:
    """A table's rows, counted, and the sum of their hashes, whatever their order."""

    rows: int
    checksum: str


@dataclass(frozen=True)
class Manifest(Document):
    """What a backup holds, as the JSON document beside it says. `tables` are fingerprints by table."""

    name: str
    file: str
    sha256: str
    bytes: int
    created_at: str
    backend: str
    """`postgresql` or `sqlite`."""
    version: int
    """The major version of PostgreSQL, 0 for SQLite."""
    schema: str
    """The latest migration."""
    tables: Mapping[str, Fingerprint]
    encoding: str = "UTF8"
    locale: str = "C"
    program: int = 0
    """The major version of the pg_dump that wrote it, 0 for SQLite."""
    roles: Sequence[str] = field(default=())
    """Whom the database's things belong to, and who has rights on them."""
    format: int = FORMAT

    @property
    def moment(self) -> datetime:
        """When the snapshot was taken, in UTC."""
        return datetime.fromisoformat(self.created_at)

    @property
    def rows(self) -> int:
        """How many rows all tables have."""
        return sum(table.rows for table in self.tables.values())

    def require_equal(self, tables: Mapping[str, Fingerprint]) -> None:
        """Raise BackupError unless these are the tables that were saved, row for row."""
        for table in sorted({*self.tables, *tables}):
            if self.tables.get(table) != tables.get(table):
                raise BackupError(f"{self.file} does not give back what was saved: {table} differs")

    @classmethod
    def from_json(cls, text: str, *, name: str, source: str) -> Manifest:
        """Read the document of the file `source`, which is about the backup `name`.

        Raises BackupError for one that is not, and for one of a later format.
        """
        try:
            found = json.loads(text)
            if found["format"] > FORMAT:
                raise BackupError(f"{source} was written by a later presgen, in format {found['format']}")
            tables = {table: Fingerprint(**facts) for table, facts in found["tables"].items()}
            manifest = cls(**{**cls.values_of(found), "tables": tables, "roles": tuple(found["roles"])})
            is_aware = manifest.moment.tzinfo is not None
            if manifest.name == name and is_aware and manifest.file in [name + suffix for suffix in SUFFIXES]:
                return manifest
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        raise BackupError(f"{source} is no manifest of a backup, or is damaged")
