"""Finds archived jobs in their files, without a database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from ... import validation
from ...errors import ValidationError
from ...fields import DocumentField, MomentField
from ...models import JobEvent, PresentationJob, User
from ...status import JobStatus
from . import rows
from .folder import Folder
from .manifest import Manifest

_TEXTS: Final = ("s3_pptx_path", "s3_video_path", "error_message", "worker", "idempotency_key")


@dataclass(frozen=True)
class ArchivedJob:
    """A job with its history as it was when it left the database; it is not to be saved, but to be restored."""

    job: PresentationJob
    events: list[JobEvent]
    archive: str
    """The name of its archive, which restore() takes."""

    def as_dict(self) -> dict[str, Any]:
        """The job's and the events' values by column, and the archive's name."""
        return {
            "job": _by_column(self.job),
            "events": [_by_column(event) for event in self.events],
            "archive": self.archive,
        }


def search(
    folder: Path | str,
    *,
    job_id: int | None = None,
    owner: User | int | None = None,
    status: JobStatus | None = None,
    text: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[ArchivedJob]:
    """The archived jobs that meet all conditions, in the order of the archives; read as they are asked for.

    `text` is a part, in any case, of a path, the error, the worker's name or the idempotency key; `since` (inclusive)
    and `until` (not so) bound the moment of the end. In constant memory. Raises ValidationError, ArchiveError for a
    damaged file, FileNotFoundError for a folder that is missing.
    """
    job = PresentationJob
    conditions: list[Callable[[PresentationJob], bool]] = []
    if job_id is not None:
        number = job.id.clean_value(job_id)
        conditions.append(lambda found: found.id == number)
    if owner is not None:
        owner_id = job.owner.clean_value(owner)
        conditions.append(lambda found: found.owner_id == owner_id)
    if status is not None:
        wanted = job.status.clean_value(status)
        conditions.append(lambda found: found.status is wanted)
    if text is not None:
        part = validation.argument(_folded, text, "text")
        conditions.append(lambda found: any(part in (getattr(found, name) or "").casefold() for name in _TEXTS))
    start = None if since is None else validation.argument(validation.moment, since, "since")
    end = None if until is None else validation.argument(validation.moment, until, "until")
    if start is not None:
        conditions.append(lambda found: _ended(found) >= start)
    if end is not None:
        conditions.append(lambda found: _ended(found) < end)
    source = Folder(folder)
    return _found(source, source.sealed(), conditions, job_id)


def _found(
    folder: Folder, archives: list[Manifest], conditions: list[Callable[[PresentationJob], bool]], job_id: int | None
) -> Iterator[ArchivedJob]:
    for manifest in archives:
        if job_id is not None and not manifest.may_have(job_id):
            continue
        for text in folder.lines(manifest):
            line = rows.decoded(text, source=manifest.file)
            job = _instance(PresentationJob, line["job"])
            if all(condition(job) for condition in conditions):
                events = [_instance(JobEvent, event) for event in line["events"]]
                yield ArchivedJob(job, events, manifest.name)


def _instance(model: Any, row: dict[str, Any]) -> Any:
    """The row as a query of the model would give it; columns that the model does not have are left out."""
    instance = model(__no_default__=1)
    for field in model._meta.sorted_fields:
        if field.column_name in row:
            instance.__data__[field.name] = _value(field, row[field.column_name])
    instance._dirty.clear()
    return instance


def _value(field: Any, stored: Any) -> Any:
    if stored is None:
        return None
    if isinstance(field, DocumentField):
        return json.loads(stored)
    if isinstance(field, MomentField):
        return _moment(stored)
    return field.python_value(stored)


def _moment(stored: str) -> datetime:
    """A moment; the earliest or the latest that Python knows for one that it does not."""
    try:
        return datetime.fromisoformat(stored).astimezone(timezone.utc)
    except ValueError:
        is_early = stored.startswith("-") or stored.endswith("BC")
        return (datetime.min if is_early else datetime.max).replace(tzinfo=timezone.utc)


def _by_column(instance: Any) -> dict[str, Any]:
    return {field.column_name: instance.__data__.get(field.name) for field in instance._meta.sorted_fields}


def _ended(job: PresentationJob) -> Any:
    return job.completed_at or job.updated_at


def _folded(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValidationError("must be text, and not blank", rule="type")
    return text.casefold()
