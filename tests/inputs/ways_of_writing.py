"""Every way to write a value into a field: what has to be there before, then the call, then the row read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from three_backends import FAILED, FIRST, SECOND

from presgen import MODELS, JobEvent, JobStatus, PresentationJob, User, VoiceClone
from presgen.fields import IdField, MomentField
from presgen.models.leased import _MEASURED
from presgen.models.queueable import _ENQUEUED

FIELDS = [field for model in MODELS for field in model._meta.sorted_fields]

Facts = dict[str, Any]
Call = Callable[[], Callable[[], Facts]]
Way = Callable[[Any, Any], Call]
"""Gets the field and the value, and gives the call; that gives what reads the row back."""

_ROWS: dict[Any, dict[str, Any]] = {
    User: {"name": "Grace"},
    VoiceClone: {"name": "v", "s3_path": "/grace.wav", "owner": FIRST},
    PresentationJob: {"s3_pptx_path": "/x.pptx", "owner": FIRST, "voice_clone": FIRST},
    JobEvent: {"job": FIRST, "from_status": "pending", "to_status": "failed", "attempt": 1},
}


def facts(row: Any, given: Any) -> Facts:
    """What can be compared between databases: not the ids and moments that each chooses by itself."""
    own = {
        field
        for field in row._meta.sorted_fields
        if isinstance(field, (IdField, MomentField)) or field.name == "processing_time_seconds"
    }
    return {field.name: row.__data__[field.name] for field in row._meta.sorted_fields if field not in own - {given}}


def _stored(field: Any, value: Any, number: Any) -> Callable[[], Facts]:
    given = field if value is not None else None
    return lambda: facts(field.model.get_by_id(number), given)


def _added(field: Any, value: Any) -> Callable[[], Facts]:
    """The row that was not there."""
    model, given = field.model, field if value is not None else None
    return lambda: facts(model.select().where(model.id.not_in((FIRST, SECOND, FAILED))).get(), given)


def _row(field: Any, value: Any) -> Facts:
    return {**_ROWS[field.model], field.name: value}


def create(field: Any, value: Any) -> Call:
    def call() -> Callable[[], Facts]:
        return _stored(field, value, field.model.create(**_row(field, value)).id)

    return call


def insert(field: Any, value: Any) -> Call:
    def call() -> Callable[[], Facts]:
        field.model.insert(_row(field, value)).execute()
        return _added(field, value)

    return call


def insert_mappings(field: Any, value: Any) -> Call:
    def call() -> Callable[[], Facts]:
        field.model.insert_many([_row(field, value)]).execute()
        return _added(field, value)

    return call


def insert_tuples(field: Any, value: Any) -> Call:
    def call() -> Callable[[], Facts]:
        row = _row(field, value)
        field.model.insert_many([tuple(row.values())], fields=list(row)).execute()
        return _added(field, value)

    return call


def bulk_create(field: Any, value: Any) -> Call:
    def call() -> Callable[[], Facts]:
        field.model.bulk_create([field.model(**_row(field, value))])
        return _added(field, value)

    return call


def save(field: Any, value: Any) -> Call:
    row = field.model.get_by_id(FIRST)

    def call() -> Callable[[], Facts]:
        setattr(row, field.name, value)
        row.save()
        return _stored(field, value, FIRST)

    return call


def save_only(field: Any, value: Any) -> Call:
    row = field.model.get_by_id(FIRST)

    def call() -> Callable[[], Facts]:
        setattr(row, field.name, value)
        row.save(only=[field])
        return _stored(field, value, FIRST)

    return call


def bulk_update(field: Any, value: Any) -> Call:
    row = field.model.get_by_id(FIRST)

    def call() -> Callable[[], Facts]:
        setattr(row, field.name, value)
        field.model.bulk_update([row], [field])
        return _stored(field, value, FIRST)

    return call


def update(field: Any, value: Any) -> Call:
    def call() -> Callable[[], Facts]:
        field.model.update({field.name: value}).where(field.model.id == FIRST).execute()
        return _stored(field, value, value if field.primary_key else FIRST)

    return call


def upsert(field: Any, value: Any) -> Call:
    model = field.model

    def call() -> Callable[[], Facts]:
        row = {**_ROWS[model], "id": FIRST}
        model.insert(row).on_conflict(conflict_target=[model.id], update={field: value}).execute()
        return _stored(field, value, value if field.primary_key else FIRST)

    return call


def enqueue(field: Any, value: Any) -> Call:
    def call() -> Callable[[], Facts]:
        return _stored(field, value, PresentationJob.enqueue(**_row(field, value)).id)

    return call


def enqueue_many(field: Any, value: Any) -> Call:
    def call() -> Callable[[], Facts]:
        PresentationJob.enqueue_many([_row(field, value)])
        return _added(field, value)

    return call


def _job_in_hand() -> PresentationJob:
    job: PresentationJob = PresentationJob.get_by_id(SECOND)
    return job


def advance(field: Any, value: Any) -> Call:
    job = _job_in_hand()

    def call() -> Callable[[], Facts]:
        job.advance(JobStatus.SYNTHESIZING_AUDIO, **{field.name: value})
        return _stored(field, value, SECOND)

    return call


def complete(field: Any, value: Any) -> Call:
    job = _job_in_hand()

    def call() -> Callable[[], Facts]:
        job.complete(**{"s3_video_path": "/v.mp4", field.name: value})
        return _stored(field, value, SECOND)

    return call


def heartbeat(field: Any, value: Any) -> Call:
    job = _job_in_hand()

    def call() -> Callable[[], Facts]:
        job.heartbeat(**{field.name: value})
        return _stored(field, value, SECOND)

    return call


_OF_EVERY_FIELD = (create, insert, insert_mappings, insert_tuples, update, upsert)
# These go by the id that a row has; and as everywhere in peewee, bulk_create() leaves ids to the database.
_OF_A_ROW = (bulk_create, save, save_only, bulk_update)
_OF_NAMES: dict[Way, frozenset[str]] = {
    enqueue: frozenset(_ENQUEUED),
    enqueue_many: frozenset(_ENQUEUED),
    advance: frozenset(_MEASURED),
    complete: frozenset(_MEASURED),
    heartbeat: frozenset({"progress", "checkpoint"}),
}


def ways_to_write(field: Any) -> list[Way]:
    """All ways that there are for a field."""
    named = [way for way, names in _OF_NAMES.items() if field.model is PresentationJob and field.name in names]
    return [*_OF_EVERY_FIELD, *([] if field.primary_key else _OF_A_ROW), *named]
