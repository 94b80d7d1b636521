"""Folder: backups on disk, each a file and a manifest; without its manifest a file is no backup yet."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ...durable import created, sha256_of, sync_file
from ...errors import BackupError, ValidationError
from .manifest import SUFFIXES, Manifest

_NAME: Final = re.compile(r"(?P<name>presgen-\d{8}T\d{6}Z-[0-9a-f]{8})(?P<kind>\..+)")
_MANIFEST: Final = ".json"
_PART: Final = ".part"
_LOCK: Final = "lock"


class Folder:
    """A folder of backups."""

    def __init__(self, path: Path | str) -> None:
        if not isinstance(path, (str, Path)) or not str(path).strip():
            raise ValidationError("folder must be a path", field="folder", rule="type")
        self.path = Path(path)

    def manifests(self) -> list[Manifest]:
        """The backups, oldest first; raises FileNotFoundError for a folder that is missing."""
        return sorted(map(self._read, dict(self._files(_MANIFEST))), key=_age)

    def named(self, name: str | None) -> Manifest:
        """The backup of that name, or the latest; raises BackupError where it is missing.

        No other manifest is read, so that a damaged one keeps nobody from the rest.
        """
        names = sorted(found for found, _ in self._files(_MANIFEST))
        if not names:
            raise BackupError(f"{self.path} has no backup")
        if name is not None:
            if name not in names:
                raise BackupError(f"{self.path} has no backup {name[:80]!r}; see: presgen backup list")
            return self._read(name)
        second = names[-1].rpartition("-")[0]  # in which there may have been several
        return max(map(self._read, (found for found in names if found.startswith(second))), key=_age)

    def _read(self, name: str) -> Manifest:
        path = self.path / (name + _MANIFEST)
        return Manifest.from_json(path.read_text(errors="replace"), name=name, source=path.name)

    def file_of(self, manifest: Manifest) -> Path:
        """The backup's file; raises BackupError for one that is not byte for byte what was written."""
        path = self.path / manifest.file
        if not path.exists():
            raise BackupError(f"{manifest.file} is missing in {self.path}")
        if path.stat().st_size != manifest.bytes:
            raise BackupError(f"{manifest.file} is damaged: it has {path.stat().st_size} of {manifest.bytes} bytes")
        if sha256_of(path) != manifest.sha256:
            raise BackupError(f"{manifest.file} is damaged: its SHA-256 is not {manifest.sha256}")
        return path

    def is_there(self, manifest: Manifest) -> bool:
        """Whether the backup's file is there, with its size."""
        path = self.path / manifest.file
        return path.is_file() and path.stat().st_size == manifest.bytes

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder, keep other writers out of it, and remove what a broken-off one has left."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.path / _LOCK, "a", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupError(
                    f"somebody else writes to {self.path} just now; wait, or use another folder"
                ) from None
            self._clear()
            try:
                yield
            finally:
                self._clear()

    def part(self, file: str) -> Path:
        """A new, empty file that only its owner can read, to be written for a backup."""
        path = self.path / (file + _PART)
        with created(path):
            pass
        return path

    def add(self, manifest: Manifest) -> None:
        """Let the written file be a backup: on the disk, under its name, with its manifest last."""
        part = self.path / (manifest.file + _PART)
        sync_file(part)
        document = self.path / (manifest.name + _MANIFEST)
        with created(document.with_name(document.name + _PART)) as file:
            file.write(manifest.to_json().encode())
        os.replace(part, self.path / manifest.file)
        sync_file(self.path)
        os.replace(document.with_name(document.name + _PART), document)
        sync_file(self.path)

    def remove(self, manifest: Manifest) -> None:
        """Remove a backup, its manifest first."""
        for file in (manifest.name + _MANIFEST, manifest.file):
            (self.path / file).unlink(missing_ok=True)
        sync_file(self.path)

    def _clear(self) -> None:
        """Remove what a broken-off backup has left, and nothing else: files of others are none of this folder's."""
        for suffix in (*SUFFIXES, _MANIFEST):
            for _, path in self._files(suffix + _PART):
                path.unlink(missing_ok=True)

    def _files(self, kind: str) -> list[tuple[str, Path]]:
        """The files of that kind, with their backups' names."""
        found = [(match, name) for name in os.listdir(self.path) if (match := _NAME.fullmatch(name))]
        return [(match["name"], self.path / name) for match, name in found if match["kind"] == kind]


def _age(manifest: Manifest) -> tuple[Any, str]:
    return manifest.moment, manifest.name
