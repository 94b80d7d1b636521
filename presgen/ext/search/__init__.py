"""search: users, voice clones and jobs are found by the words of names, addresses, paths and errors.

PostgreSQL's own full-text index, or SQLite's FTS5; both find the same.
"""

from __future__ import annotations

from typing import Any, Final

from ...clock import is_sqlite
from . import on_postgresql, on_sqlite
from .finding import Hit, jobs, users, voice_clones

__all__ = ["COST", "Hit", "finish", "forget", "install", "is_installed", "jobs", "uninstall", "users", "voice_clones"]

COST: Final = "an index a table; heartbeats cost what they did (docs/operations.md)"
CHANGES: Final = ("idx_*_search*",)


def install(database: Any) -> None:
    """Let rows be found by their words; again, it follows what tenancy has changed.

    Raises ConfigurationError where SQLite has no FTS5, or PostgreSQL no Unicode.
    """
    _backend(database).install(database)


def finish(database: Any) -> None:
    """Build what is not to block writers."""
    _backend(database).finish(database)


def uninstall(database: Any) -> None:
    """Drop the indexes."""
    _backend(database).uninstall(database)


def is_installed(database: Any) -> bool:
    """Whether the indexes are there."""
    return bool(_backend(database).is_installed(database))


def forget(database: Any, table: str, column: str) -> None:
    """Let the index know nothing of what a column had before it was encrypted."""
    _backend(database).forget(database, table, column)


def _backend(database: Any) -> Any:
    return on_sqlite if is_sqlite(database) else on_postgresql
