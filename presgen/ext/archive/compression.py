"""How data files are compressed: gzip, or Zstandard with the extra `zstd`."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from typing import Any, BinaryIO, Final, TextIO

from ...errors import ArchiveError, MissingExtra, ValidationError
from ...validation import shown

SUFFIXES: Final = {"gzip": ".gz", "zstd": ".zst"}
"""Behind the name of a data file."""

_GZIP_LEVEL: Final = 6
_ZSTD_LEVEL: Final = 9


def suffix_of(compression: str) -> str:
    """What the names of such files end in; raises ValidationError, and MissingExtra where its library is missing."""
    if compression not in SUFFIXES:
        known = " or ".join(SUFFIXES)
        raise ValidationError(f"compression must be {known}, not {shown(compression)}", field="compression", rule="one")
    if compression == "zstd":
        _zstandard()
    return SUFFIXES[compression]


@contextmanager
def compressed(file: BinaryIO, suffix: str) -> Iterator[TextIO]:
    """Text that goes into the file; the same text gives the same bytes."""
    stream: Any
    if suffix == SUFFIXES["zstd"]:
        stream = _zstandard().ZstdCompressor(level=_ZSTD_LEVEL).stream_writer(file, closefd=False)
    else:
        stream = gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=file, mtime=0)
    with TextIOWrapper(stream, encoding="utf-8", newline="\n") as text:
        yield text


@contextmanager
def decompressed(file: BinaryIO, suffix: str, *, source: str) -> Iterator[TextIO]:
    """Text that comes from the file `source`; raises ArchiveError where it is damaged."""
    stream: Any = gzip.GzipFile(fileobj=file)
    damage: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError)
    if suffix == SUFFIXES["zstd"]:
        zstandard = _zstandard()
        stream = zstandard.ZstdDecompressor().stream_reader(file, closefd=False)
        damage = (*damage, zstandard.ZstdError)
    try:
        with TextIOWrapper(stream, encoding="utf-8", newline="\n") as text:
            yield text
    except damage:
        raise ArchiveError(f"{source} is damaged: it cannot be decompressed") from None


def _zstandard() -> Any:
    try:
        return import_module("zstandard")
    except ModuleNotFoundError:
        raise MissingExtra("zstandard", "zstd") from None
