"""Keeping partitions: new ones before they are needed, and the space of those that were emptied back."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any, Final

from ...errors import ConfigurationError
from ...migrating.apart import at_work, patiently
from ...validation import argument, at_least
from .changing import adding, changing_alone, owners_only, require_server
from .conversion import AHEAD, add_partitions
from .ranges import (
    EVENTS,
    JOBS,
    KEY,
    Partition,
    is_partitioned,
    last_given,
    month_of_ids,
    name_of,
    partitions_of,
    room_for,
)

# Before a partition of jobs goes, PostgreSQL looks for events that refer to it: by their index, and not in all of them.
_BY_INDEX: Final = ("SET LOCAL enable_hashjoin = off", "SET LOCAL enable_mergejoin = off")
# All of the rows, and the pages with them, also where the server thinks that few are not worth it.
_VACUUM: Final = "VACUUM (INDEX_CLEANUP ON, TRUNCATE ON) {name}"
_HAS_ROWS: Final = "SELECT EXISTS (SELECT FROM {name})"
_HIGHEST_BETWEEN: Final = "SELECT max({key}) FROM {name} WHERE {key} >= %s AND {key} < %s"

logger = logging.getLogger("database")


def status(manager: Any) -> list[Partition]:
    """The partitions of the jobs, with the bytes of their events added to theirs, in the order of their ids.

    Raises ConfigurationError where there are none, or where events have none.
    """
    _require_both(manager.database)
    with manager.session() as database:
        events = partitions_of(database, EVENTS)
        return [
            replace(one, bytes=one.bytes + sum(other.bytes for other in events if one.has_the_start_of(other)))
            for one in partitions_of(database, JOBS)
        ]


def advance(manager: Any, *, size: int | None = None) -> list[str]:
    """Create what partitions are missing ahead of the ids that are given; gives their names. To be run daily.

    A partition has room for `size` jobs, or for those of the last 30 days. What comes while none is ready, and what has
    an id by hand, is in the last partition, and stays there. Raises ConfigurationError where there are no partitions
    and for a role that does not own the tables; ValidationError for a size that is none; DatabaseBusy when others held
    the tables all the time; MigrationError inside a transaction.
    """
    if size is not None:
        size = argument(at_least(1), size, "size")
    _require_both(manager.database)
    with at_work(manager.database) as database:
        room = size or month_of_ids(database)
        created = patiently(database, "advancing", partial(_advance, database, room))
        return _analyzed(database, created)


def compact(manager: Any) -> list[str]:
    """Drop the partitions whose jobs are all gone, so that their space is free; gives the names of those of jobs.

    They are vacuumed first: one whose deleted rows a transaction may still see is left for another time. What is
    restored from an archive finds its place in the last partition. Raises as advance() does.
    """
    _require_both(manager.database)
    with at_work(manager.database) as database, owners_only():
        for partition in _emptied(database):
            patiently(database, "vacuuming", partial(database.execute_sql, _VACUUM.format(name=partition.name)))
        left = [partition.name for partition in _emptied(database)]
        if left:
            logger.warning("%s had its last rows deleted, which a transaction may still see", ", ".join(left))
        dropped = patiently(database, "compacting", partial(_compact, database))
        return _analyzed(database, dropped)


def _require_both(database: Any) -> None:
    require_server(database)
    if not database.table_exists(JOBS):
        raise ConfigurationError("there are no jobs yet; run: presgen migrate")
    if not (is_partitioned(database, JOBS) and is_partitioned(database, EVENTS)):
        raise ConfigurationError("jobs and events are not both partitioned; run: presgen install partitions")


def _analyzed(database: Any, changed: list[str]) -> list[str]:
    """What was changed, with new statistics of the whole tables, which the server itself does not gather."""
    if changed:
        database.execute_sql(f"ANALYZE {JOBS}, {EVENTS}")
    return changed


def _advance(database: Any, size: int) -> list[str]:
    missing = AHEAD - len(_ahead(database))
    if missing <= 0:
        return []  # without keeping anybody waiting
    with adding(database):
        start = _start_of_new_ones(database, size, missing)
        starts = [start + size * number for number in range(missing + 1)]
        for table in (JOBS, EVENTS):
            add_partitions(database, table, starts)
        return [name_of(JOBS, begin) for begin in starts[:-1]]


def _ahead(database: Any) -> list[Partition]:
    last = last_given(database)
    return [one for one in partitions_of(database, JOBS) if (one.start or 0) > last]


def _start_of_new_ones(database: Any, size: int, count: int) -> int:
    """Behind all others, and where they come late, well before the ids; no row may have its place in them yet."""
    last = last_given(database)
    ends = [one.end for table in (JOBS, EVENTS) for one in partitions_of(database, table) if one.end is not None]
    start = max(ends, default=0)
    if start <= last:
        start = last + 1 + room_for(size)
    for table in (JOBS, EVENTS):
        rest = partitions_of(database, table)[-1].name
        while (highest := _highest_between(database, rest, KEY[table], start, start + size * count)) is not None:
            start = highest + 1
    return start


def _highest_between(database: Any, name: str, key: str, start: int, end: int) -> int | None:
    (highest,) = database.execute_sql(_HIGHEST_BETWEEN.format(name=name, key=key), (start, end)).fetchone()
    return None if highest is None else int(highest)


def _compact(database: Any) -> list[str]:
    if not _empty(database, JOBS):
        return []  # without keeping anybody waiting
    with changing_alone(database):
        for setting in _BY_INDEX:
            database.execute_sql(setting)
        dropped = []
        # Events first, which refer to the jobs.
        for table in (EVENTS, JOBS):
            dropped = _empty(database, table)
            for partition in dropped:
                database.execute_sql(f"ALTER TABLE {table} DETACH PARTITION {partition.name}")
                database.execute_sql(f"DROP TABLE {partition.name}")
        return [partition.name for partition in dropped]


def _empty(database: Any, table: str) -> list[Partition]:
    """The partitions of which nothing is left, whoever looks, and nothing will come."""
    return [one for one in _over(database, table) if not one.has_pages]


def _emptied(database: Any) -> list[Partition]:
    """The partitions, of either table, that have no rows any more for whoever looks now, and pages."""
    return [
        one
        for table in (JOBS, EVENTS)
        for one in _over(database, table)
        if one.has_pages and not database.execute_sql(_HAS_ROWS.format(name=one.name)).fetchone()[0]
    ]


def _over(database: Any, table: str) -> list[Partition]:
    """The partitions whose ids were all given."""
    last = last_given(database)
    return [one for one in partitions_of(database, table) if one.end is not None and one.end <= last]
