"""Keeping partitions: new ones before they are needed, and the space of those that were emptied back."""

from __future__ import annotations

from typing import Any, Final

from ...errors import ConfigurationError
from .belongings import belongings_of
from .conversion import add_partition, lock
from .ranges import AHEAD, EVENTS, JOBS, Partition, last_id, month_of_ids, partitions_of

_HAS_ROWS: Final = "SELECT EXISTS (SELECT 1 FROM {name})"


def status(manager: Any) -> list[Partition]:
    """The partitions of the jobs, in the order of their ids; raises ConfigurationError where there are none."""
    with manager.session() as database:
        found = partitions_of(database)
    if not found:
        raise ConfigurationError("the table of jobs has no partitions; run: presgen install partitions")
    return found


def advance(manager: Any, *, size: int | None = None) -> list[str]:
    """Create what partitions are missing ahead of the ids that are given; gives their names. To be run daily.

    A partition has room for `size` jobs, or for those of the last 30 days. Raises ConfigurationError when the last
    partition, which takes whatever comes after the others, has rows: nothing can be put before it then.
    """
    status(manager)
    room = size or month_of_ids(manager.database)
    return manager.run_in_transaction(lambda: _advance(manager.database, room))  # type: ignore[no-any-return]


def _advance(database: Any, size: int) -> list[str]:
    lock(database)  # first, so that what others have written meanwhile is seen
    jobs, events = belongings_of(database, JOBS), belongings_of(database, EVENTS)
    found = partitions_of(database)
    last = last_id(database, jobs.sequence)
    ahead = sum(partition.start > last for partition in found[:-1])
    if ahead >= AHEAD:
        return []
    rest = found[-1]
    if database.execute_sql(_HAS_ROWS.format(name=rest.name)).fetchone()[0]:
        raise ConfigurationError(f"{rest.name}, which takes whatever nobody has foreseen, has rows already")
    start = rest.start
    _drop(database, rest)
    created = []
    for _ in range(AHEAD - ahead):
        for own in (jobs, events):
            add_partition(database, own, start, start + size)
        created.append(f"{JOBS}_from_{start}")
        start += size
    for own in (jobs, events):
        add_partition(database, own, start, None)
    return created


def compact(manager: Any) -> list[str]:
    """Give the space of partitions back whose jobs are all gone; gives the names of those.

    Neighbours become one, so that the number of partitions does not grow for ever. What is restored from an archive
    finds its place again.
    """
    status(manager)
    return manager.run_in_transaction(lambda: _compact(manager.database))  # type: ignore[no-any-return]


def _compact(database: Any) -> list[str]:
    lock(database)
    jobs, events = belongings_of(database, JOBS), belongings_of(database, EVENTS)
    last = last_id(database, jobs.sequence)
    compacted = []
    for run in _runs(database, last):
        if len(run) == 1 and run[0].bytes <= _empty_bytes(database, run[0]):
            continue
        for partition in run:
            _drop(database, partition)
            compacted.append(partition.name)
        for own in (jobs, events):
            add_partition(database, own, run[0].start, run[-1].end)
    return compacted


def _runs(database: Any, last: int) -> list[list[Partition]]:
    """Neighbours without rows whose ids were all given."""
    runs: list[list[Partition]] = [[]]
    for partition in partitions_of(database):
        is_over = partition.end is not None and partition.end <= last
        if is_over and not database.execute_sql(_HAS_ROWS.format(name=partition.name)).fetchone()[0]:
            runs[-1].append(partition)
        else:
            runs.append([])
    return [run for run in runs if run]


def _empty_bytes(database: Any, partition: Partition) -> int:
    """The size of a partition that never had rows: a page for each index."""
    sql = "SELECT 8192 * (2 + count(*)) FROM pg_index WHERE indrelid = to_regclass(%s)"
    return int(database.execute_sql(sql, (partition.name,)).fetchone()[0])


def _drop(database: Any, partition: Partition) -> None:
    """Events first, which refer to the jobs."""
    for table in (EVENTS, JOBS):
        (name,) = (one.name for one in partitions_of(database, table) if one.start == partition.start)
        database.execute_sql(f"ALTER TABLE {table} DETACH PARTITION {name}")
        database.execute_sql(f"DROP TABLE {name}")
