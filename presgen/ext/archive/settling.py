"""What a crash has left in a folder, made whole or removed."""

from __future__ import annotations

from typing import Any

from ...errors import ArchiveError
from . import catalog, rows
from .folder import Folder
from .manifest import Manifest


def settle(database: Any, folder: Folder) -> None:
    """Seal what the database has recorded, and remove what it has not or has taken back.

    In the caller's transaction, until whose end other archivers are kept out. Raises ArchiveError for archives of
    another database, and changes none of them.
    """
    catalog.lock(database)
    sealed, unsealed, strays = folder.sealed(), folder.unsealed(), folder.strays()
    names = [*(manifest.name for manifest in (*sealed, *unsealed)), *(name for name, _ in strays)]
    known = catalog.known(database, names) if names else {}
    removed = [manifest for manifest in sealed if catalog.require_known(database, manifest, known)]
    for manifest in unsealed:
        if manifest.name in known:
            folder.seal(manifest)
        else:
            _require_leftover(database, folder, manifest, sealed)
            folder.discard(manifest)
    for manifest in removed:
        folder.remove(manifest)
    for name, file in strays:
        _, is_removed = known.get(name, ("", False))
        if file.suffix == ".part" or is_removed:
            file.unlink(missing_ok=True)


def _require_leftover(database: Any, folder: Folder, manifest: Manifest, sealed: list[Manifest]) -> None:
    """Raise ArchiveError unless the jobs are where they were: in the database, or in the archive to be replaced."""
    if any(manifest.replaces == archive.name for archive in sealed):
        return
    lines = folder.lines(manifest, is_sealed=False)
    job_ids = {rows.decoded(line, source=manifest.file)["job"]["id"] for line in lines}
    if job_ids - rows.existing(database, sorted(job_ids)):
        raise ArchiveError(
            f"{manifest.file} has jobs that this database neither has nor has archived: it is another database's"
        )
