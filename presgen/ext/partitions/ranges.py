"""The ranges of ids that partitions hold: each about a month's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ...roles import require_all_rows

JOBS: Final = "presentation_jobs"
EVENTS: Final = "job_events"
KEY: Final = {JOBS: "id", EVENTS: "job_id"}
"""The column by whose values a table's rows are divided: the job's id, in either table."""
SIZE_MIN: Final = 100_000
"""A partition has room for so many jobs at least, if nobody says otherwise."""

_MONTH: Final = """
SELECT coalesce(max(id) - min(id), 0) FROM presentation_jobs WHERE created_at >= now() - interval '30 days'
"""
_HIGHEST: Final = "SELECT coalesce(max(id), 0) FROM presentation_jobs"
_LAST_GIVEN: Final = "SELECT last_value FROM {sequence}"
_SEQUENCE: Final = "SELECT pg_get_serial_sequence('presentation_jobs', 'id')"
_IS_PARTITIONED: Final = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)"
_PARTITIONS: Final = """
SELECT child.relname::text, pg_get_expr(child.relpartbound, child.oid), pg_total_relation_size(child.oid),
    greatest(child.reltuples, 0)::bigint
FROM pg_partitioned_table JOIN pg_inherits ON inhparent = partrelid JOIN pg_class AS child ON child.oid = inhrelid
WHERE partrelid = to_regclass(%s)
"""
_BOUNDS: Final = re.compile(r"FOR VALUES FROM \('?(?P<start>MINVALUE|\d+)'?\) TO \('?(?P<end>MAXVALUE|\d+)'?\)")


@dataclass(frozen=True)
class Partition:
    """A partition of a table: the jobs with `start` <= id < `end`, or their events."""

    start: int
    """0 for the first one, which takes whatever comes before the others."""
    end: int | None
    """None for the last one, which takes whatever comes after the others."""
    name: str
    bytes: int
    rows: int
    """As the planner last knew."""

    def has(self, job_id: int) -> bool:
        """Whether the job's place is here."""
        return self.start <= job_id and (self.end is None or job_id < self.end)


def is_partitioned(database: Any, table: str) -> bool:
    """Whether the table is divided; not where it does not exist."""
    return bool(database.execute_sql(_IS_PARTITIONED, (table,)).fetchone() == (True,))


def partitions_of(database: Any, table: str) -> list[Partition]:
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
    """How many ids a partition is to have room for: as many as the last 30 days have taken.

    Raises ConfigurationError for a login that sees some jobs only.
    """
    require_all_rows(database, JOBS)
    (count,) = database.execute_sql(_MONTH).fetchone()
    return max(SIZE_MIN, int(count))


def last_id(database: Any) -> int:
    """The highest id of a job, whoever gave it; raises ConfigurationError as month_of_ids() does."""
    require_all_rows(database, JOBS)
    (highest,) = database.execute_sql(_HIGHEST).fetchone()
    return max(int(highest), last_given(database))


def last_given(database: Any) -> int:
    """The last id that the sequence has given."""
    (sequence,) = database.execute_sql(_SEQUENCE).fetchone()
    return int(database.execute_sql(_LAST_GIVEN.format(sequence=sequence)).fetchone()[0])


def name_of(table: str, start: int) -> str:
    """The name of the partition whose ids begin so."""
    return f"{table}_from_{start}"


def bounds(start: int, end: int | None) -> str:
    """As SQL says it."""
    return f"FROM ({start or 'MINVALUE'}) TO ({'MAXVALUE' if end is None else end})"
