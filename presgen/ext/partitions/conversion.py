"""Turning a table into a partitioned one.

The table that is there becomes the first partition: what it holds is not moved, and not even read, since a condition
that was checked before, beside the writers, tells PostgreSQL that all of it belongs there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ...errors import ConfigurationError
from ...migrating.apart import patiently
from . import keys
from .belongings import Belongings, belongings_of, facts_of, give_to_owner_of, require_same, storage_of
from .changing import changing, changing_alone
from .obstacles import require_none
from .ranges import EVENTS, JOBS, KEY, bounds, is_partitioned, last_id, month_of_ids, name_of, partitions_of

AHEAD: Final = 2
"""So many partitions are ready before they are needed."""
RANGE: Final = "presgen_range"
"""The name of the condition that is checked beside the writers; while it is there, ids after it are refused."""
# The primary key of events has to begin with the job's id, and the latest ones are found by their own.
_KEY_OF_EVENTS: Final = "job_events_job_id_id"
INDEX_OF_EVENTS: Final = "idx_job_events_id"
# The primary key does what it did.
OLD_INDEX_OF_EVENTS: Final = "idx_job_events_job"
_BESIDE: Final = {
    _KEY_OF_EVENTS: f"CREATE UNIQUE INDEX CONCURRENTLY {_KEY_OF_EVENTS} ON {EVENTS} (job_id, id)",
    INDEX_OF_EVENTS: f"CREATE INDEX CONCURRENTLY {INDEX_OF_EVENTS} ON {EVENTS} (id)",
}
_CHANGED: Final = {
    JOBS: {RANGE, keys.INDEX},
    EVENTS: {RANGE, "job_events_pkey", _KEY_OF_EVENTS, OLD_INDEX_OF_EVENTS},
}
"""What the new table is to have otherwise, or not any more."""
_UNCHECKED: Final = """
SELECT format('ALTER TABLE %%s VALIDATE CONSTRAINT %%I', conrelid::regclass, conname)
FROM pg_constraint
WHERE confrelid = to_regclass(%s) AND contype = 'f' AND NOT convalidated AND conparentid = 0
"""
# Each index of the second table, and the first one's that belongs to it.
_INDEX_PAIRS: Final = """
SELECT parent.relname::text, child.relname::text
FROM pg_index JOIN pg_class AS parent ON parent.oid = pg_index.indexrelid
    LEFT JOIN (pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
        JOIN pg_index AS of_child ON of_child.indexrelid = child.oid AND of_child.indrelid = to_regclass(%s))
    ON inhparent = parent.oid
WHERE pg_index.indrelid = to_regclass(%s)
"""
_LIMIT: Final = """
SELECT substring(pg_get_constraintdef(oid) FROM '< ''?(\\d+)')::bigint
FROM pg_constraint WHERE conrelid = to_regclass(%s) AND conname = %s
"""


def convert(database: Any, size: int | None) -> None:
    """Partition what is not yet: jobs, then their events; on a connection for migrations, outside a transaction.

    Raises ConfigurationError when something would be lost, and DatabaseBusy when others held the tables all the time;
    then nothing, or jobs alone, are partitioned, and the same again goes on.
    """
    whole = [table for table in (JOBS, EVENTS) if not is_partitioned(database, table)]
    for table in whole:
        require_none(database, table, (_KEY_OF_EVENTS,))
    size = size or month_of_ids(database)
    try:
        if whole == [EVENTS]:
            patiently(database, "making room", lambda: _make_room(database, size))
        if whole:
            _check_beside(database, whole, size)
        if JOBS in whole:
            patiently(database, f"partitioning {JOBS}", lambda: _partition(database, JOBS, size))
        for (statement,) in database.execute_sql(_UNCHECKED, (JOBS,)).fetchall():
            _execute(database, statement)
        if EVENTS in whole:
            patiently(database, f"partitioning {EVENTS}", lambda: _partition(database, EVENTS, size))
    finally:
        _forget_what_was_checked(database)
    if not keys.are_guarded(database):
        patiently(database, "guarding the keys", lambda: _guard(database))
    # Of a partitioned table the server itself gathers no statistics.
    database.execute_sql(f"ANALYZE {JOBS}, {EVENTS}")


def add_partition(database: Any, table: str, start: int, end: int | None) -> None:
    """Create one more partition of a table, stored as the others and with the same owner."""
    name, storage = name_of(table, start), storage_of(database, partitions_of(database, table)[0].name)
    database.execute_sql(
        f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES {bounds(start, end)}"
        + (f" WITH ({storage})" if storage else "")
    )
    give_to_owner_of(database, table, name)


def add_partitions(database: Any, table: str, starts: Sequence[int]) -> None:
    """Create neighbours, of which the last one takes whatever comes after it."""
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        add_partition(database, table, start, end)


def _check_beside(database: Any, tables: Sequence[str], size: int) -> None:
    """Let the server check, beside the writers, what the conversion rests on."""
    end = _end_of_the_first(database, size)
    for table in tables:
        limited = f"ADD CONSTRAINT {RANGE} CHECK ({KEY[table]} < {end}) NOT VALID"
        _execute(database, f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {RANGE}, {limited}")
    for table in tables:
        _execute(database, f"ALTER TABLE {table} VALIDATE CONSTRAINT {RANGE}")
    if EVENTS in tables:
        for statement in _BESIDE.values():
            _execute(database, statement)


def _execute(database: Any, statement: str) -> None:
    """Run one statement, again while others hold a lock that it needs."""

    def run() -> None:
        with changing(database):
            database.execute_verbatim(statement)

    patiently(database, statement, run)


def _end_of_the_first(database: Any, size: int) -> int:
    """Where the first partition is to end: that of the events with one of the jobs, before which there is room."""
    last = last_id(database)
    ends = (partition.end for partition in partitions_of(database, JOBS))
    return next((end for end in ends if end is not None and _is_room(last, end, size)), last + 1 + size)


def _make_room(database: Any, size: int) -> None:
    """Give the last partition of the jobs an end, unless the ids have not come near it since they were divided."""
    last, rest = last_id(database), partitions_of(database, JOBS)[-1]
    if _is_room(last, rest.start, size):
        return
    with changing_alone(database):
        own, end = belongings_of(database, JOBS), last + 1 + 2 * size
        own.drop_referring(database)
        database.execute_sql(f"ALTER TABLE {JOBS} DETACH PARTITION {rest.name}")
        database.execute_sql(f"ALTER TABLE {JOBS} ATTACH PARTITION {rest.name} FOR VALUES {bounds(rest.start, end)}")
        add_partitions(database, JOBS, [end])
        own.add_referring(database)


def _is_room(last: int, end: int, size: int) -> bool:
    return end > last + size // 2


def _forget_what_was_checked(database: Any) -> None:
    """Take away what was made for a conversion that failed, of which RANGE would refuse ids one day."""
    for table in (JOBS, EVENTS):
        if not is_partitioned(database, table):
            _execute(database, f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {RANGE}")
    if not is_partitioned(database, EVENTS):
        for index in _BESIDE:
            if database.execute_sql("SELECT to_regclass(%s)", (index,)).fetchone() != (None,):
                _execute(database, f"DROP INDEX CONCURRENTLY {index}")


def _partition(database: Any, table: str, size: int) -> None:
    """Put a table into another one's first partition, which takes its name and all that it has."""
    with changing_alone(database) as schema:
        before, own, first = facts_of(database, table), belongings_of(database, table), f"{table}_first"
        (end,) = database.execute_sql(_LIMIT, (table, RANGE)).fetchone()
        _put_aside(database, own, first)
        _create_parent(database, own, first)
        database.execute_sql(f"ALTER TABLE {table} ATTACH PARTITION {first} FOR VALUES {bounds(0, end)}")
        database.execute_sql(f"ALTER TABLE {first} DROP CONSTRAINT {RANGE}")
        _name_indexes(database, own, first)
        starts = [end + size * number for number in range(AHEAD + 1)]
        if table == EVENTS:
            starts = [end, *(one.start for one in partitions_of(database, JOBS) if one.start > end)]
        add_partitions(database, table, starts)
        own.make_again(database)
        for partition in partitions_of(database, table):
            give_to_owner_of(database, table, partition.name)
        own.add_referring(database)
        require_same(before, facts_of(database, table), but=_CHANGED[table])
        if table == JOBS:
            keys.guard(database, schema)


def _put_aside(database: Any, own: Belongings, name: str) -> None:
    """Give a table another name, and its indexes; take away what the new one is to have, and what nobody will need."""
    own.drop_referring(database)
    for policy, table, _ in own.policies:
        database.execute_verbatim(f"DROP POLICY {policy} ON {table}")
    for trigger, _ in own.triggers:
        database.execute_verbatim(f"DROP TRIGGER {trigger} ON {own.table}")
    # A partition that its owner could not see all rows of would look empty to whoever is to drop it.
    database.execute_sql(f"ALTER TABLE {own.table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY")
    database.execute_sql(f"ALTER TABLE {own.table} RENAME TO {name}")
    database.execute_sql(f"ALTER TABLE {name} ALTER COLUMN id DROP IDENTITY")
    for index in own.indexes:
        if index in (keys.INDEX, OLD_INDEX_OF_EVENTS):
            database.execute_sql(f"DROP INDEX {index}")
        elif index != _KEY_OF_EVENTS:
            database.execute_verbatim(f"ALTER INDEX {_quoted(index)} RENAME TO {_quoted(_put_aside_as(index))}")
    if own.table == EVENTS:
        key = _put_aside_as("job_events_pkey")
        database.execute_sql(
            f"ALTER TABLE {name} DROP CONSTRAINT {key}, ADD CONSTRAINT {key} PRIMARY KEY USING INDEX {_KEY_OF_EVENTS}"
        )


def _create_parent(database: Any, own: Belongings, like: str) -> None:
    """Create the table that is to have the partitions."""
    table = own.table
    database.execute_sql(
        f"CREATE TABLE {table} (LIKE {like} INCLUDING ALL EXCLUDING IDENTITY EXCLUDING STATISTICS) "
        f"PARTITION BY RANGE ({KEY[table]})"
    )
    database.execute_sql(f"ALTER TABLE {table} DROP CONSTRAINT {RANGE}")
    for key in own.keys:
        database.execute_verbatim(f"ALTER TABLE {table} {key}")
    database.execute_verbatim(f"ALTER TABLE {table} ALTER COLUMN id ADD {own.identity}")
    database.execute_sql("SELECT setval(%s, %s, %s)", (own.sequence, *own.last_number))


def _name_indexes(database: Any, own: Belongings, first: str) -> None:
    """Give each index the name that the first partition's has had; raises ConfigurationError where that has none."""
    names = {_put_aside_as(index): index for index in own.indexes}
    for index, of_first in database.execute_sql(_INDEX_PAIRS, (first, own.table)).fetchall():
        if of_first not in names:  # PostgreSQL would have built it just now, and kept everybody waiting
            raise ConfigurationError(f"{own.table} has an index whose like PostgreSQL cannot make: {index}")
        if index != names[of_first]:
            database.execute_verbatim(f"ALTER INDEX {_quoted(index)} RENAME TO {_quoted(names[of_first])}")


def _guard(database: Any) -> None:
    with changing(database) as schema:
        keys.guard(database, schema)


def _put_aside_as(index: str) -> str:
    return f"{index[:57]}_first"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
