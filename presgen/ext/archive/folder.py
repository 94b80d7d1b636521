"""Folder: the files of an archive on disk, each either whole or not there.

A data file and its manifest are written as `….part` and brought to the disk; then the transaction commits that deletes
the jobs and records the archive; then `seal()` gives both their names, the manifest last. So a manifest under its own
name is an archive, and what a crash has left as `….part` is one too if the database has its record, or else nothing.
No whole file is ever deleted: what has no record is set aside as `….abandoned`, what was taken back as `….restored`.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final

from ...durable import created, sha256_of, sync_file
from ...errors import ArchiveError, ValidationError
from .compression import SUFFIXES, compressed, decompressed
from .manifest import Manifest

_PART: Final = ".part"
_MANIFEST: Final = ".json"
_DATA: Final = ".jsonl"
_ABANDONED: Final = ".abandoned"
_RESTORED: Final = ".restored"
_OWNER: Final = "database"
_LOCK: Final = "lock"
_LOCK_POLL_SECONDS: Final = 0.05
_NAME: Final = re.compile(r"(?P<name>jobs-\d{8}T\d{12}Z-[0-9a-f]{8})(?P<kind>\..+)")


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

    @contextmanager
    def alone(self, database_id: str) -> Iterator[None]:
        """Make the folder where it is missing, for its owner alone, and keep others out of it for the block.

        Raises ArchiveError for a folder of another database, and changes nothing there.
        """
        if not self.path.exists():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_file(self.path.parent)
        with open(self.path / _LOCK, "a", encoding="utf-8") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(_LOCK_POLL_SECONDS)
            self._require_owner(database_id)
            yield

    def sealed(self) -> list[Manifest]:
        """The archives, in the order of their names; raises FileNotFoundError for a folder that is missing."""
        return [self.read(name) for name in self.names()]

    def names(self) -> list[str]:
        """The names of the archives, in their order; raises FileNotFoundError for a folder that is missing."""
        return [name for name, _ in self._files(_MANIFEST)]

    def read(self, name: str) -> Manifest:
        """The manifest of one archive; raises ArchiveError for a damaged one."""
        path = self.path / (name + _MANIFEST)
        return Manifest.from_json(path.read_text(errors="replace"), name=name, source=path.name)

    def unsealed(self) -> list[Manifest]:
        """What was written whole and has no name yet; a manifest that was not is set aside."""
        found = []
        for name, path in self._files(_MANIFEST + _PART):
            try:
                found.append(Manifest.from_json(path.read_text(errors="replace"), name=name, source=path.name))
            except ArchiveError:  # the transaction begins to commit when the manifest is whole
                os.replace(path, path.with_name(path.name + _ABANDONED))
        return found

    def remove_strays(self, known: Container[str]) -> None:
        """Remove the data files that a crash has left unfinished, before their manifests."""
        for suffix in SUFFIXES.values():
            for name, path in self._files(_DATA + suffix + _PART):
                if name not in known:
                    path.unlink(missing_ok=True)

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
        """Give both files their names; again is no error. Raises ArchiveError where the data are missing."""
        data, part = self.path / manifest.file, self.path / (manifest.file + _PART)
        if not data.exists() and not part.exists():
            raise ArchiveError(f"{manifest.file} is missing in {self.path}, and its jobs have left the database")
        for file in (manifest.file, manifest.name + _MANIFEST):  # the manifest last: it says that there is an archive
            with suppress(FileNotFoundError):  # a process that was killed has done so
                os.replace(self.path / (file + _PART), self.path / file)
        sync_file(self.path)

    def set_aside(self, manifest: Manifest, *, is_sealed: bool) -> None:
        """Let files be no archive: ones that no database has recorded, or whose jobs are back; again is no error."""
        ending, mark = ("", _RESTORED) if is_sealed else (_PART, _ABANDONED)
        for file in (manifest.name + _MANIFEST, manifest.file):
            with suppress(FileNotFoundError):
                os.replace(self.path / (file + ending), self.path / (file + mark))
        sync_file(self.path)

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

    def _files(self, kind: str) -> list[tuple[str, Path]]:
        """The files of that kind with their archives' names, in the order of these."""
        found = [(match, name) for name in os.listdir(self.path) if (match := _NAME.fullmatch(name))]
        return sorted((match["name"], self.path / name) for match, name in found if match["kind"] == kind)

    def _require_owner(self, database_id: str) -> None:
        path = self.path / _OWNER
        if not path.exists():
            part = self.path / f"{_OWNER}{_PART}"
            part.unlink(missing_ok=True)
            with created(part) as file:
                file.write(database_id.encode())
            os.replace(part, path)
            sync_file(self.path)
        elif path.read_text().strip() != database_id:
            raise ArchiveError(f"{self.path} belongs to another database; use another folder")

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


def manifests(folder: Path | str) -> list[Manifest]:
    """What the archives of a folder hold, in the order of their names; raises FileNotFoundError for a missing one."""
    return Folder(folder).sealed()
