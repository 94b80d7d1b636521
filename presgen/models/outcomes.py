"""What a change of status means for the other columns of a job, in one place for all that change it."""

from __future__ import annotations

from typing import Any

import peewee as pw

from ..clock import backoff_time, elapsed_seconds, latest, moment_sql, server_time
from ..compiled import Parameter
from ..status import JobStatus
from .written import Row


def requeued(model: Any) -> Row:
    """A job that goes back to PENDING begins anew, and has at least one attempt left."""
    one_more = pw.Case(None, [(model.attempt >= model.max_attempts, model.attempt + 1)], model.max_attempts)
    return {
        model.status: JobStatus.PENDING,
        model.max_attempts: one_more,
        model.worker: None,
        model.lease_expires_at: None,
        model.cancel_requested_at: None,
        model.started_at: None,
        model.completed_at: None,
        model.processing_time_seconds: None,
        model.progress: 0.0,
    }


def entered(model: Any, status: JobStatus, given: Row | None = None) -> Row:
    """A stored job that enters a running stage or an end, with the times that it and `given` leave open.

    The expressions of an UPDATE see the row as it was, so values of the same statement come from `given`.
    """
    database, given = model._meta.database, given or {}
    row: Row = {model.status: status}
    now = moment_sql(database, given.get(model.completed_at) or model.server_time())
    started = moment_sql(database, given.get(model.started_at) or model.started_at)
    if status.is_running or status is JobStatus.COMPLETED:
        row[model.started_at] = started = pw.fn.COALESCE(started, now)
    if status.is_finished:
        # Never before the start, even when the server's clock was set back.
        ended = pw.fn.COALESCE(model.completed_at, latest(database, pw.fn.COALESCE(started, now), now))
        elapsed = elapsed_seconds(database, started, ended)
        row[model.completed_at] = ended
        row[model.processing_time_seconds] = pw.fn.COALESCE(model.processing_time_seconds, elapsed)
        row[model.lease_expires_at] = None
    return {**row, **given}


def as_given(_model: Any, given: Row) -> Row:
    """A job of which nothing else changes."""
    return given


def into_status(model: Any, given: Row) -> Row:
    """A job that enters the status that is given."""
    return entered(model, given[model.status], given)


def delayed(model: Any, given: Row) -> Row:
    """A job that is tried again, after a backoff."""
    return {**requeued(model), model.run_at: backoff_time(model._meta.database), **given}


def released(model: Any, given: Row) -> Row:
    """A job that is given back, and whose attempt does not count."""
    return {**requeued(model), model.max_attempts: model.max_attempts + 1, **given}


def leased(model: Any) -> Row:
    """A job in a worker's hand for another `lease_seconds`, which are among the statement's values."""
    seconds = Parameter("lease_seconds", float)
    return {model.lease_expires_at: server_time(model._meta.database, plus_seconds=seconds)}


def born(model: Any, status: JobStatus, given: Row) -> Row:
    """A new job that begins its life in this status, with the times that `given` leaves open."""
    now = model.server_time()
    row: Row = {}
    if status.is_running or status is JobStatus.COMPLETED:
        row[model.started_at] = given.get(model.completed_at, now)
    if status.is_finished:
        row[model.completed_at] = now
    row |= given
    start, end = row.get(model.started_at), row.get(model.completed_at)
    if start is not None and end is not None and model.processing_time_seconds not in row:
        database = model._meta.database
        start, end = moment_sql(database, start), moment_sql(database, end)
        row[model.processing_time_seconds] = elapsed_seconds(database, start, end)
    return row
