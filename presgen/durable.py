"""Files that are whole on the disk, or not there, and what is told of them beside."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def created(path: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner can read; on the disk when the block ends. Raises FileExistsError."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Document:
    """A dataclass that is kept as a JSON file."""

    def as_dict(self: Any) -> dict[str, Any]:
        """Its values by their names."""
        return asdict(self)

    def to_json(self) -> str:
        """The document."""
        return json.dumps(self.as_dict(), indent=2) + "\n"

    @classmethod
    def values_of(cls: Any, document: Mapping[str, Any]) -> dict[str, Any]:
        """What the dataclass knows of a document; raises KeyError for one that lacks something."""
        return {known.name: document[known.name] for known in fields(cls)}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
