"""Keeping partitions: new ones before they are needed, and the space of those that were emptied back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from ...errors import ConfigurationError
from ...migrating.apart import at_work, patiently
from ...validation import argument, at_least
from .changing import changing_alone, require_server, seeing_all
from .conversion import AHEAD, add_partition, add_partitions
from .ranges import (
    EVENTS,
    JOBS,
    KEY,
    Partition,
    bounds,
    is_partitioned,
    last_given,
    month_of_ids,
    name_of,
    partitions_of,
)

_HAS_ROWS: Final = "SELECT EXISTS (SELECT 1 FROM {name})"
_HIGHEST: Final = "SELECT coalesce(max({key}), 0) FROM {name}"
# Before a partition of jobs goes, PostgreSQL looks for events that refer to it: by their index, and not in all of them.
_BY_INDEX: Final = ("SET LOCAL enable_hashjoin = off", "SET LOCAL enable_mergejoin = off")
_KEYS_OF_EVENTS: Final = """
SELECT quote_ident(conname) FROM pg_constraint
WHERE conrelid = to_regclass(%s) AND confrelid = to_regclass(%s) AND contype = 'f'
"""


def status(manager: Any) -> list[Partition]:
    """The partitions of the jobs with their events' bytes, in the order of their ids.

    Raises ConfigurationError where there are none, or where events have none.
    """
    _require_both(manager.database)
    with manager.session() as database:
        events = partitions_of(database, EVENTS)
        return [
            replace(one, bytes=one.bytes + sum(other.bytes for other in events if one.has(other.start)))
            for one in partitions_of(database, JOBS)
        ]


def advance(manager: Any, *, size: int | None = None) -> list[str]:
    """Create what partitions are missing ahead of the ids that are given; gives their names. To be run daily.

    A partition has room for `size` jobs, or for those of the last 30 days. When it comes too late, and the last one,
    which takes whatever comes after the others, has rows, that one gets an end: everybody waits while PostgreSQL looks
    at all of its rows. Raises ConfigurationError where there are no partitions, ValidationError for a size that is
    none, DatabaseBusy when others held the tables all the time.
    """
    if size is not None:
        size = argument(at_least(1), size, "size")
    _require_both(manager.database)
    with at_work(manager.database) as database:
        room = size or month_of_ids(database)
        return patiently(database, "advancing", lambda: _advance(database, room))


def compact(manager: Any) -> list[str]:
    """Give the space of partitions back whose jobs are all gone; gives the names of those.

    Neighbours become one, so that the number of partitions does not grow for ever. What is restored from an archive
    finds its place again. Raises as advance() does.
    """
    _require_both(manager.database)
    with at_work(manager.database) as database:
        return patiently(database, "compacting", lambda: _compact(database))


def _require_both(database: Any) -> None:
    require_server(database)
    if not (is_partitioned(database, JOBS) and is_partitioned(database, EVENTS)):
        raise ConfigurationError("jobs and events are not both partitioned; run: presgen install partitions")


def _advance(database: Any, size: int) -> list[str]:
    last = last_given(database)
    missing = AHEAD - sum(partition.start > last for partition in partitions_of(database, JOBS)[:-1])
    if missing <= 0:
        return []  # without keeping anybody waiting
    with changing_alone(database):
        start = _end_the_rests(database, size)
        starts = [start + size * number for number in range(missing + 1)]
        for table in (JOBS, EVENTS):
            add_partitions(database, table, starts)
        return [name_of(JOBS, begin) for begin in starts[:-1]]


def _end_the_rests(database: Any, size: int) -> int:
    """Give the last partitions, which have none, an end, and tell which, for others to follow; empty ones just go."""
    rests = {table: partitions_of(database, table)[-1] for table in (EVENTS, JOBS)}
    written = {table: rest for table, rest in rests.items() if _has_rows(database, rest)}
    end = max(rest.start for rest in rests.values())
    if written:
        end = max(end, *(_highest(database, table, rest) + 1 + size for table, rest in written.items()))
    for table, rest in rests.items():  # events first, which refer to the jobs
        _detach(database, table, rest)
    for table, rest in reversed(rests.items()):
        if table in written:
            place = f"FOR VALUES {bounds(rest.start, end)}"
            database.execute_sql(f"ALTER TABLE {table} ATTACH PARTITION {rest.name} {place}")
            continue
        database.execute_sql(f"DROP TABLE {rest.name}")
        if rest.start < end:
            add_partition(database, table, rest.start, end)
    return end


def _compact(database: Any) -> list[str]:
    with changing_alone(database):
        compacted = []
        fresh = min(partition.bytes for partition in partitions_of(database, JOBS))
        for run in _empty_runs(database):
            if len(run) > 1 or run[0].bytes > fresh:
                _make_one(database, EVENTS, _within(partitions_of(database, EVENTS), run[0].start, run[-1].end))
                _make_one(database, JOBS, run)
                compacted += [partition.name for partition in run]
        return compacted


def _make_one(database: Any, table: str, run: list[Partition]) -> None:
    """Put a new partition in the place of neighbours that have no rows."""
    for partition in run:
        _detach(database, table, partition)
        database.execute_sql(f"DROP TABLE {partition.name}")
    if run:
        add_partition(database, table, run[0].start, run[-1].end)


def _within(partitions: list[Partition], start: int, end: int | None) -> list[Partition]:
    return [one for one in partitions if start <= one.start and one.end is not None and one.end <= (end or 0)]


def _empty_runs(database: Any) -> list[list[Partition]]:
    """Neighbours without rows whose ids were all given."""
    last = last_given(database)
    runs: list[list[Partition]] = [[]]
    for partition in partitions_of(database, JOBS):
        if partition.end is not None and partition.end <= last and not _has_rows(database, partition):
            runs[-1].append(partition)
        else:
            runs.append([])
    return [run for run in runs if run]


def _has_rows(database: Any, partition: Partition) -> bool:
    with seeing_all(database):
        return bool(database.execute_sql(_HAS_ROWS.format(name=partition.name)).fetchone()[0])


def _highest(database: Any, table: str, partition: Partition) -> int:
    """The highest id of a job that the partition has, or that was given."""
    (highest,) = database.execute_sql(_HIGHEST.format(key=KEY[table], name=partition.name)).fetchone()
    return max(int(highest), last_given(database))


def _detach(database: Any, table: str, partition: Partition) -> None:
    for setting in _BY_INDEX:
        database.execute_sql(setting)
    database.execute_sql(f"ALTER TABLE {table} DETACH PARTITION {partition.name}")
    for (key,) in database.execute_sql(_KEYS_OF_EVENTS, (partition.name, JOBS)).fetchall():
        database.execute_verbatim(f"ALTER TABLE {partition.name} DROP CONSTRAINT {key}")
