"""Jobs and their events as lines of a data file, and back; values as the database writes them, so that none changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import peewee as pw

from ...clock import is_sqlite, moment_sql
from ...errors import ArchiveError
from ...models import JobEvent, PresentationJob, VoiceClone
from ...status import JobStatus
from .columns import columns_of

Line = dict[str, Any]
"""A line, decoded: `job` is a row of presentation_jobs by column, `events` are its rows of job_events."""

# Text of moments and numbers that says all of them, whatever the login's settings are.
_EXACT: Final = "SELECT set_config('TimeZone', 'UTC', true), set_config('extra_float_digits', '1', true)"
_INSERT: Final = 'INSERT INTO "{table}" ({columns}) VALUES {rows}'
# SQLite takes no more than 32,766 parameters, and a job has 26 columns.
_AT_ONCE: Final = 1_000


def be_exact(database: Any) -> None:
    """Let this transaction read and write every value exactly."""
    if not is_sqlite(database):
        database.execute_sql(_EXACT)


def due_job_ids(database: Any, cutoffs: Mapping[JobStatus, Any], *, after: int, limit: int) -> list[int]:
    """Lock jobs that ended before the moment of their status and that nobody else has locked; ids behind `after`."""
    jobs = _table(database, PresentationJob)
    query = jobs.select(jobs.id).where(_is_due(database, jobs, cutoffs), jobs.id > after).order_by(jobs.id).limit(limit)
    if not is_sqlite(database):
        query = query.for_update("FOR UPDATE SKIP LOCKED")
    return [job_id for (job_id,) in query.tuples()]


def count_due(database: Any, cutoffs: Mapping[JobStatus, Any]) -> int:
    """How many jobs ended before the moment of their status."""
    jobs = _table(database, PresentationJob)
    return int(jobs.select().where(_is_due(database, jobs, cutoffs)).count())


def lines_of(database: Any, job_ids: Sequence[int]) -> list[Line]:
    """The jobs with their events, in the order of their ids."""
    jobs, events = _table(database, PresentationJob), _table(database, JobEvent)
    found = _selected(database, jobs, PresentationJob).where(jobs.id.in_(job_ids)).order_by(jobs.id).dicts()
    lines = {row["id"]: {"job": row, "events": []} for row in found}
    for event in _selected(database, events, JobEvent).where(events.job_id.in_(job_ids)).order_by(events.id).dicts():
        lines[event["job_id"]]["events"].append(event)
    return list(lines.values())


def encoded(line: Line) -> str:
    """The line's text."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=_refuse)


def decoded(text: str, *, source: str) -> Line:
    """The line of a text; raises ArchiveError for one that is none."""
    try:
        line = json.loads(text)
        if {"job", "events"} <= line.keys() and "id" in line["job"]:
            return line  # type: ignore[no-any-return]
    except (ValueError, AttributeError, TypeError):
        pass
    raise ArchiveError(f"{source} is damaged: a line of it is no job")


def _refuse(value: Any) -> Any:
    raise ArchiveError(f"a value of type {type(value).__name__}, of a column that is not presgen's, cannot be archived")


def finished_at(line: Line) -> str:
    """When the job ended, as the database writes it."""
    return str(line["job"]["completed_at"] or line["job"]["updated_at"])


def delete(database: Any, job_ids: Sequence[int]) -> None:
    """Delete the jobs and, by their foreign key, their events; raises ArchiveError if there are not as many."""
    jobs = _table(database, PresentationJob)
    deleted = jobs.delete().where(jobs.id.in_(job_ids)).execute()
    if deleted != len(job_ids):
        raise ArchiveError(
            f"{deleted} of {len(job_ids)} jobs could be deleted: does a policy or trigger keep the rest?"
        )


def existing(database: Any, job_ids: Iterable[int]) -> set[int]:
    """Which of the jobs the database has."""
    jobs = _table(database, PresentationJob)
    found: set[int] = set()
    for batch in pw.chunked(job_ids, _AT_ONCE):
        found.update(job_id for (job_id,) in jobs.select(jobs.id).where(jobs.id.in_(batch)).tuples())
    return found


def orphans(database: Any, lines: Iterable[Line]) -> list[int]:
    """The ids of the jobs whose owner does not have their voice, or is gone."""
    voices = _table(database, VoiceClone)
    needed = {line["job"]["id"]: (line["job"]["owner_id"], line["job"]["voice_clone_id"]) for line in lines}
    there: set[tuple[int, int]] = set()
    for batch in pw.chunked({voice_id for _, voice_id in needed.values()}, _AT_ONCE):
        there.update(voices.select(voices.owner_id, voices.id).where(voices.id.in_(batch)).tuples())
    return [job_id for job_id, pair in needed.items() if pair not in there]


def insert(database: Any, lines: Sequence[Line]) -> None:
    """Put the jobs and their events back as they were."""
    _insert(database, PresentationJob, [line["job"] for line in lines])
    _insert(database, JobEvent, list(chain.from_iterable(line["events"] for line in lines)))


def _insert(database: Any, model: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for column in {column for row in rows for column in row} - columns_of(database, model._meta.table_name).keys():
        raise ArchiveError(f"{model._meta.table_name} has no column {column}: the archive is of a later schema")
    for batch in pw.chunked(rows, _AT_ONCE):
        columns = list(batch[0])
        sql = _INSERT.format(
            table=model._meta.table_name,
            columns=", ".join(f'"{column}"' for column in columns),
            rows=", ".join([f"({', '.join([database.param] * len(columns))})"] * len(batch)),
        )
        database.execute_sql(sql, tuple(values[column] for values in batch for column in columns))


def _selected(database: Any, table: Any, model: Any) -> Any:
    """Select all columns; those whose values JSON does not have, as the server's text."""
    columns = columns_of(database, model._meta.table_name)
    named = {name: pw.Column(table, name) for name in columns}
    return table.select(
        *(named[name] if is_plain else named[name].cast("TEXT").alias(name) for name, is_plain in columns.items())
    )


def _is_due(database: Any, jobs: Any, cutoffs: Mapping[JobStatus, Any]) -> Any:
    ended = pw.fn.COALESCE(jobs.completed_at, jobs.updated_at)
    due = [(jobs.status == status.value) & (ended < moment_sql(database, moment)) for status, moment in cutoffs.items()]
    condition = due[0]
    for another in due[1:]:
        condition |= another
    if is_sqlite(database):
        condition &= _keeps_latest_ids(database, jobs)
    return condition


def _keeps_latest_ids(database: Any, jobs: Any) -> Any:
    """SQLite gives the id behind the highest one: the highest job and the job of the highest event have to stay."""
    highest, events = _table(database, PresentationJob), _table(database, JobEvent)
    latest = events.select(events.job_id).order_by(events.id.desc()).limit(1)
    return (jobs.id < highest.select(pw.fn.MAX(highest.id))) & jobs.id.not_in(latest)


def _table(database: Any, model: Any) -> Any:
    """The model's table, whose values no field converts."""
    return pw.Table(model._meta.table_name, list(model._meta.columns)).bind(database)
