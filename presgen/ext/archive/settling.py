"""What a crash has left in a folder, made whole or set aside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...clock import is_sqlite
from ...context import session
from ...errors import PresgenError
from . import catalog
from .folder import Folder


def settle(database: Any, folder: Folder) -> None:
    """Seal what the database has recorded, and set aside what it has not or has taken back.

    In the caller's transaction, until whose end other archivers are kept out. Raises ArchiveError for archives of
    another database.
    """
    catalog.lock(database)
    sealed, unsealed = folder.sealed(), folder.unsealed()
    names = [manifest.name for manifest in (*sealed, *unsealed)]
    known = catalog.known(database, names) if names else {}
    removed = [manifest for manifest in sealed if catalog.require_known(manifest, known).is_removed]
    for manifest in unsealed:
        if manifest.name in known:
            folder.seal(manifest)
        else:
            folder.set_aside(manifest, is_sealed=False)
    for manifest in removed:
        folder.set_aside(manifest, is_sealed=True)
    folder.remove_strays(known=set(names))


@contextmanager
def durably(database: Any, operation: str) -> Iterator[None]:
    """A session whose commits are on the disk when they return; raises PresgenError inside a transaction.

    What is done to files cannot be undone with a transaction, and must not come before it on the disk.
    """
    if database.in_transaction():
        raise PresgenError(f"{operation} inside a transaction could not be undone with it: commit first")
    with session(database):
        if not is_sqlite(database):
            yield  # catalog.lock() sees to it
            return
        (before,) = database.execute_sql("PRAGMA synchronous").fetchone()
        database.execute_sql("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            database.execute_sql(f"PRAGMA synchronous = {before}")
