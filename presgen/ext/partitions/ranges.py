"""The ranges of ids that partitions hold: each about a month's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ...errors import ConfigurationError
from ...roles import require_all_rows

JOBS: Final = "presentation_jobs"
EVENTS: Final = "job_events"
KEY: Final = {JOBS: "id", EVENTS: "job_id"}
"""The column by whose values a table's rows are divided: the job's id, in either table."""
ROOM: Final = 100_000
"""A partition has room for so many jobs at least, if nobody says otherwise; the first one, whoever says what.

While the first one is made, ids that come after it are refused.
"""

_FIRST_OF_THE_MONTH: Final = """
SELECT id FROM presentation_jobs WHERE created_at >= now() - interval '30 days' ORDER BY created_at, id LIMIT 1
"""
_HIGHEST: Final = "SELECT coalesce(max({key}), 0) FROM {table}"
_LAST_GIVEN: Final = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence(%s, 'id')::regclass), 0)"
_IS_PARTITIONED: Final = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)"
_PARTITIONS: Final = """
SELECT child.relname::text, pg_get_expr(child.relpartbound, child.oid), pg_total_relation_size(child.oid),
    pg_relation_size(child.oid) > 0, greatest(child.reltuples, 0)::bigint
FROM pg_partitioned_table JOIN pg_inherits ON inhparent = partrelid JOIN pg_class AS child ON child.oid = inhrelid
WHERE partrelid = to_regclass(%s)
"""
_BOUNDS: Final = re.compile(r"DEFAULT|FOR VALUES FROM \('?(?P<start>MINVALUE|\d+)'?\) TO \('?(?P<end>\d+)'?\)")


@dataclass(frozen=True)
class Partition:
    """A partition of a table: the jobs with `start` <= id < `end`, or their events."""

    start: int | None
    """None for the first one, which takes whatever comes before the others, and for the last one."""
    end: int | None
    """None for the last one, which takes whatever belongs to no other."""
    name: str
    bytes: int
    """What it takes on the disk with its indexes."""
    has_pages: bool
    """Whether it may have rows; those that were deleted, too, while a transaction may still see them."""
    rows: int
    """As the planner last knew."""

    def has_the_start_of(self, other: Partition) -> bool:
        """Whether another table's partition begins here; the last ones belong together."""
        if self.end is None or other.end is None:
            return self.end is other.end
        return (self.start or 0) <= (other.start or 0) < self.end


def is_partitioned(database: Any, table: str) -> bool:
    """Whether the table is divided; not where it does not exist."""
    return bool(database.execute_sql(_IS_PARTITIONED, (table,)).fetchone() == (True,))


def partitions_of(database: Any, table: str) -> list[Partition]:
    """The partitions of a table in the order of their ids; none for a table that has none."""
    found = []
    for name, bounds, *facts in database.execute_sql(_PARTITIONS, (table,)).fetchall():
        match = _BOUNDS.fullmatch(bounds)
        if match is not None:
            found.append(Partition(_bound(match["start"]), _bound(match["end"]), name, *facts))
    return sorted(found, key=lambda partition: (partition.end is None, partition.end))


def _bound(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def month_of_ids(database: Any) -> int:
    """How many ids a partition is to have room for: as many as the last 30 days have taken.

    Raises ConfigurationError for a login that sees some jobs only.
    """
    require_all_rows(database, JOBS)
    first = database.execute_sql(_FIRST_OF_THE_MONTH).fetchone()
    return ROOM if first is None else max(ROOM, last_given(database) - max(0, int(first[0])))


def room_for(size: int) -> int:
    """How many ids are to come before those of partitions that are not there yet."""
    return max(size, ROOM)


def last_given(database: Any) -> int:
    """The last id that the sequence has given."""
    return int(database.execute_sql(_LAST_GIVEN, (JOBS,)).fetchone()[0])


def end_after(database: Any, table: str, room: int) -> int:
    """An end for a table's first partition, with room for so many ids after those that there are.

    Raises ConfigurationError for an id that somebody has given far beyond the sequence's, for all that the sequence is
    still to give would share the partition with it.
    """
    last = last_given(database)
    (highest,) = database.execute_sql(_HIGHEST.format(key=KEY[table], table=table)).fetchone()
    if highest > last + room:
        raise ConfigurationError(
            f"job {highest} lies far beyond the last id that was given, {last}: give it another id, or set the sequence"
        )
    return max(int(highest), last) + 1 + room


def name_of(table: str, start: int) -> str:
    """The name of the partition whose ids begin so."""
    return f"{table}_from_{start}"
