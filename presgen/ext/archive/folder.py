"""Folder: the files of an archive on disk, each either whole or not there.

A data file and its manifest are written as `….part` and brought to the disk; then the transaction commits that deletes
the jobs and records the archive; then `seal()` gives both their names, the manifest last. So a manifest under its own
name is an archive, and what a crash has left as `….part` is one too if the database has its record, or else nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final

from ...durable import created, sha256_of, sync_file
from ...errors import ArchiveError, ValidationError
from .compression import compressed, decompressed
from .manifest import Manifest

_PART: Final = ".part"
_MANIFEST: Final = ".json"
_DATA: Final = ".jsonl"
_PREFIX: Final = "jobs-"


@dataclass(frozen=True)
class Summary:
    """What was counted of a data file while it was written or read."""

    sha256: str
    bytes: int
    lines: int


class Folder:
    """A folder of archives."""

    def __init__(self, path: Path | str) -> None:
        if not isinstance(path, (str, Path)) or not str(path).strip():
            raise ValidationError("folder must be a path", field="folder", rule="type")
        self.path = Path(path)

    def create(self) -> None:
        """Make the folder where it is missing, for its owner alone."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def sealed(self) -> list[Manifest]:
        """The archives, in the order of their names; raises FileNotFoundError for a folder that is missing."""
        return self._manifests(_MANIFEST)

    def unsealed(self) -> list[Manifest]:
        """What was written whole and has no name yet."""
        return self._manifests(_MANIFEST + _PART)

    def strays(self) -> list[tuple[str, Path]]:
        """Data files without a manifest of whatever kind, each with the archive's name; what a crash has left."""
        known = {manifest.name for manifest in (*self.sealed(), *self.unsealed())}
        files = sorted(self.path.glob(f"{_PREFIX}*{_DATA}.*"))
        named = [(file.name.partition(_DATA)[0], file) for file in files]
        return [(name, file) for name, file in named if name not in known]

    def write(self, name: str, lines: Iterable[str], suffix: str) -> tuple[str, Summary]:
        """Write a data file, bring it to the disk and read it back; gives its later name and what was counted."""
        file = f"{name}{_DATA}{suffix}"
        part = self.path / (file + _PART)
        count = 0
        with created(part) as raw, compressed(raw, suffix) as text:
            for line in lines:
                text.write(line + "\n")
                count += 1
        summary = self._summary(part, suffix)
        if summary.lines != count:
            raise ArchiveError(f"{part} has {summary.lines} of the {count} jobs that were written to it")
        return file, summary

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest of a data file, and bring both files' names to the disk."""
        with created(self.path / f"{manifest.name}{_MANIFEST}{_PART}") as raw:
            raw.write(manifest.to_json().encode())
        sync_file(self.path)

    def seal(self, manifest: Manifest) -> None:
        """Give both files their names; again is no error."""
        for file in (manifest.file, manifest.name + _MANIFEST):  # the manifest last: it says that there is an archive
            with suppress(FileNotFoundError):  # somebody else has finished it
                os.replace(self.path / (file + _PART), self.path / file)
        sync_file(self.path)

    def discard(self, manifest: Manifest) -> None:
        """Remove what has no name yet."""
        self._remove(manifest.name + _MANIFEST + _PART, manifest.file + _PART, manifest.file)

    def remove(self, manifest: Manifest) -> None:
        """Remove an archive; again is no error."""
        self._remove(manifest.name + _MANIFEST, manifest.file)

    def lines(self, manifest: Manifest, *, is_sealed: bool = True) -> Iterator[str]:
        """The lines of a data file, as they are read; raises ArchiveError for one that is missing or damaged."""
        count = 0
        with self._opened(manifest, is_sealed=is_sealed) as raw:
            suffix = Path(manifest.file).suffix
            with decompressed(raw, suffix, source=manifest.file) as text:
                for line in text:
                    count += 1
                    yield line.rstrip("\n")
        if count != manifest.jobs:
            raise ArchiveError(f"{manifest.file} is damaged: it has {count} of {manifest.jobs} jobs")

    def require_intact(self, manifest: Manifest) -> None:
        """Raise ArchiveError for a data file that is not byte for byte what was written."""
        with self._opened(manifest):
            sha256 = sha256_of(self.path / manifest.file)
        if sha256 != manifest.sha256:
            raise ArchiveError(f"{manifest.file} is damaged: its SHA-256 is {sha256}")

    def _manifests(self, suffix: str) -> list[Manifest]:
        names = sorted(name for name in os.listdir(self.path) if name.startswith(_PREFIX) and name.endswith(suffix))
        return [Manifest.from_json((self.path / name).read_text(), source=name) for name in names]

    @contextmanager
    def _opened(self, manifest: Manifest, *, is_sealed: bool = True) -> Iterator[BufferedReader]:
        path = self.path / manifest.file
        if not is_sealed and not path.exists():
            path = self.path / (manifest.file + _PART)
        if not path.exists():
            raise ArchiveError(f"{manifest.file} is missing in {self.path}")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != manifest.bytes:  # Zstandard does not tell every end that is missing
                raise ArchiveError(f"{manifest.file} is damaged: it has {size} of {manifest.bytes} bytes")
            yield file

    def _summary(self, part: Path, suffix: str) -> Summary:
        with open(part, "rb") as raw, decompressed(raw, suffix, source=part.name) as text:
            lines = sum(1 for _ in text)
        return Summary(sha256_of(part), part.stat().st_size, lines)

    def _remove(self, *files: str) -> None:
        for file in files:
            (self.path / file).unlink(missing_ok=True)
        sync_file(self.path)


def manifests(folder: Path | str) -> list[Manifest]:
    """What the archives of a folder hold, in the order of their names; raises FileNotFoundError for a missing one."""
    return Folder(folder).sealed()
