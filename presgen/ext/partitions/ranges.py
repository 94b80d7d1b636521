"""The ranges of ids that partitions hold: each about a month's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

JOBS: Final = "presentation_jobs"
EVENTS: Final = "job_events"
KEY: Final = {JOBS: "id", EVENTS: "job_id"}
"""The column by whose values a table's rows are divided: the job's id, in either table."""
SIZE_MIN: Final = 100_000
"""A partition has room for so many jobs at least."""
AHEAD: Final = 2
"""So many partitions are ready before they are needed."""
_MONTH: Final = """
SELECT coalesce(max(id) - min(id), 0) FROM presentation_jobs WHERE created_at >= now() - interval '30 days'
"""
_LAST: Final = "SELECT last_value FROM {sequence}"
_PARTITIONS: Final = """
SELECT child.relname::text, pg_get_expr(child.relpartbound, child.oid), pg_total_relation_size(child.oid),
    greatest(child.reltuples, 0)::bigint
FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = to_regclass(%s)
"""
_BOUNDS: Final = re.compile(r"FOR VALUES FROM \('?(?P<start>MINVALUE|\d+)'?\) TO \('?(?P<end>MAXVALUE|\d+)'?\)")


@dataclass(frozen=True, order=True)
class Partition:
    """A partition of a table: the jobs with `start` <= id < `end`, and their events."""

    start: int
    end: int | None
    """None for the last one, which takes whatever comes after the others."""
    name: str
    bytes: int
    rows: int
    """As the planner last knew."""


def partitions_of(database: Any, table: str = JOBS) -> list[Partition]:
    """The partitions of a table in the order of their ids; none for a table that has none."""
    found = []
    for name, bounds, size, rows in database.execute_sql(_PARTITIONS, (table,)).fetchall():
        match = _BOUNDS.fullmatch(bounds)
        if match is not None:
            start = 0 if match["start"] == "MINVALUE" else int(match["start"])
            end = None if match["end"] == "MAXVALUE" else int(match["end"])
            found.append(Partition(start, end, name, size, rows))
    return sorted(found, key=lambda partition: partition.start)


def month_of_ids(database: Any) -> int:
    """How many ids a partition is to have room for: as many as the last 30 days have taken."""
    (count,) = database.execute_sql(_MONTH).fetchone()
    return max(SIZE_MIN, int(count))


def last_id(database: Any, sequence: str) -> int:
    """The highest id that was given."""
    return int(database.execute_sql(_LAST.format(sequence=sequence)).fetchone()[0])


def name_of(table: str, start: int) -> str:
    """The name of the partition whose ids begin so."""
    return f"{table}_from_{start}"


def bounds(start: int | None, end: int | None) -> str:
    """As SQL says it; None is without a bound."""
    return f"FROM ({'MINVALUE' if start is None else start}) TO ({'MAXVALUE' if end is None else end})"
