"""The database's clock, as SQL expressions for the backend that a model is bound to.

On SQLite the database runs inside this process: its clock is ours, with microseconds.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, Final

import peewee as pw

from .compiled import NOW, Moment, Parameter, Values

# A failed attempt waits BASE * 2**(attempt - 1) seconds, at most CAP, of which a random half is dropped
# ("equal jitter": retries of jobs that failed together spread out, and none comes back at once).
BACKOFF_BASE_SECONDS: Final = 2
BACKOFF_CAP_SECONDS: Final = 600

# SQLite's own clock has milliseconds; the zeros keep the width that stored_moment() has.
SQLITE_FORMAT: Final = "%Y-%m-%d %H:%M:%f000+00:00"

# A job that was set to a stage by hand, and not claimed, has no attempt yet: it waits as after its first.
_BACKOFF_POSTGRESQL: Final = f"""
statement_timestamp() + make_interval(secs =>
    LEAST({BACKOFF_CAP_SECONDS}, {BACKOFF_BASE_SECONDS} * power(2, LEAST(GREATEST(attempt, 1) - 1, 20)))
    * (0.5 + random() / 2))
"""
_BACKOFF_SQLITE: Final = f"""
strftime('{SQLITE_FORMAT}', 'now',
    (MIN({BACKOFF_CAP_SECONDS}, {BACKOFF_BASE_SECONDS} * (1 << MIN(MAX(attempt, 1) - 1, 20)))
    * (0.5 + abs(random() % 1000) / 2000.0)) || ' seconds')
"""


def is_sqlite(database: Any) -> bool:
    """Whether the database, or what a proxy stands for, is SQLite."""
    return isinstance(getattr(database, "obj", database), pw.SqliteDatabase)


def stored_moment(value: datetime) -> str:
    """An aware datetime as SQLite stores it: fixed width, UTC, so that text order is time order."""
    return value.astimezone(timezone.utc).isoformat(sep=" ", timespec="microseconds")


def server_time(database: Any, *, plus_seconds: float | Parameter = 0.0) -> Any:
    """The time at which the statement runs, plus so many seconds."""
    if is_sqlite(database):
        return Moment(partial(_here, plus_seconds))
    if not isinstance(plus_seconds, Parameter) and not plus_seconds:
        return pw.fn.statement_timestamp()
    seconds = plus_seconds if isinstance(plus_seconds, Parameter) else pw.Value(plus_seconds, converter=False)
    return pw.fn.statement_timestamp() + pw.fn.make_interval(pw.NodeList((pw.SQL("secs =>"), seconds)))


def _here(plus_seconds: float | Parameter, values: Values) -> str:
    seconds = plus_seconds.value(values) if isinstance(plus_seconds, Parameter) else plus_seconds
    return stored_moment(values[NOW] + timedelta(seconds=seconds))


def _midnight_here(values: Values) -> str:
    return stored_moment(values[NOW].replace(hour=0, minute=0, second=0, microsecond=0))


def database_now(database: Any) -> datetime:
    """The database's time, fetched: one statement on PostgreSQL, none on SQLite."""
    if is_sqlite(database):
        return datetime.now(timezone.utc)
    now: datetime = database.execute_sql("SELECT statement_timestamp()").fetchone()[0]
    return now


def start_of_day(database: Any) -> Any:
    """Midnight in UTC of the day it is."""
    if is_sqlite(database):
        return Moment(_midnight_here)
    return pw.fn.date_trunc("day", pw.fn.statement_timestamp(), "UTC")


def backoff_time(database: Any) -> Any:
    """When a job may be claimed again after its `attempt` (the column of the row that is written) failed."""
    return pw.SQL(_BACKOFF_SQLITE if is_sqlite(database) else _BACKOFF_POSTGRESQL)


def moment_sql(database: Any, value: Any) -> Any:
    """A datetime as SQL of the column's type; columns and expressions as they are."""
    if not isinstance(value, (datetime, Parameter)):
        return value
    literal = pw.Value(stored_moment(value), unpack=False) if isinstance(value, datetime) else value
    return literal if is_sqlite(database) else literal.cast("timestamptz")


def latest(database: Any, one: Any, other: Any) -> Any:
    """The later of two moments, neither of them NULL."""
    return pw.fn.MAX(one, other) if is_sqlite(database) else pw.fn.GREATEST(one, other)


def elapsed_seconds(database: Any, start: Any, end: Any) -> Any:
    """Seconds between two moments as a float, NULL where one of them is."""
    if is_sqlite(database):
        # Its date functions round to milliseconds, so they get the whole seconds; microseconds are text in one place.
        whole = pw.fn.strftime("%s", pw.fn.substr(end, 1, 19)) - pw.fn.strftime("%s", pw.fn.substr(start, 1, 19))
        return whole + (pw.fn.substr(end, 21, 6) - pw.fn.substr(start, 21, 6)) / 1_000_000.0
    return pw.fn.date_part("epoch", end - start)
