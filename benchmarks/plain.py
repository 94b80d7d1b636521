"""Plain: rows of any library as dicts of plain values, so that they can be compared."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from enum import Enum
from typing import Any

USER = ("id", "name", "email", "is_active", "created_at", "updated_at")
VOICE_CLONE = ("id", "name", "s3_path", "file_size", "duration_seconds", "sample_rate", "created_at", "owner_id")
JOB = (
    "id",
    "status",
    "s3_pptx_path",
    "s3_video_path",
    "slides_count",
    "video_duration_seconds",
    "file_size_bytes",
    "processing_time_seconds",
    "error_message",
    "created_at",
    "started_at",
    "completed_at",
    "owner_id",
    "voice_clone_id",
)
"""The columns that presgen and the specification's models have in common."""


def value(found: Any) -> Any:
    """A status as its text, a moment as naive UTC, anything else as it is."""
    if isinstance(found, Enum):
        return found.value
    if isinstance(found, datetime) and found.tzinfo is not None:
        return found.astimezone(timezone.utc).replace(tzinfo=None)
    return found


def of_object(row: Any, columns: tuple[str, ...]) -> dict[str, Any]:
    """The columns of a model's instance."""
    return {name: value(getattr(row, name)) for name in columns}


def of_tuple(names: tuple[str, ...]) -> Callable[[Any, tuple[str, ...]], dict[str, Any]]:
    """How to get columns of a row that has these names in order."""

    def of_row(row: Any, columns: tuple[str, ...]) -> dict[str, Any]:
        found = dict(zip(names, row, strict=True))
        return {name: value(found[name]) for name in columns}

    return of_row
