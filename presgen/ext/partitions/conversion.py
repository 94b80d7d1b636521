"""Turning a table into a partitioned one.

The table that is there becomes the first partition: what it holds is not moved, and not even read, since a condition
that was checked before, beside the writers, tells PostgreSQL that all of it belongs there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, Final

from ...errors import ConfigurationError, ConstraintViolation, PresgenError, StatementFailed
from ...migrating.apart import patiently
from . import keys
from .belongings import Belongings, belongings_of, facts_of, give_to_owner_of, require_same, storage_of
from .changing import changing, changing_alone
from .obstacles import RANGE, require_none
from .ranges import (
    EVENTS,
    JOBS,
    KEY,
    end_after,
    is_partitioned,
    month_of_ids,
    name_of,
    partitions_of,
    room_for,
)

AHEAD: Final = 2
"""So many partitions are ready before they are needed."""
INDEX_OF_EVENTS: Final = "idx_job_events_id"
"""The latest events are found by their ids, with which the primary key does not begin any more."""
OLD_INDEX_OF_EVENTS: Final = "idx_job_events_job"
"""The new primary key does what it did."""
_KEY_OF_EVENTS: Final = "job_events_job_id_id"
_BUILT_BESIDE: Final = {
    _KEY_OF_EVENTS: f"CREATE UNIQUE INDEX CONCURRENTLY {_KEY_OF_EVENTS} ON {EVENTS} (job_id, id)",
    INDEX_OF_EVENTS: f"CREATE INDEX CONCURRENTLY {INDEX_OF_EVENTS} ON {EVENTS} (id)",
}
_CHANGED: Final = {
    JOBS: {RANGE, keys.INDEX, *keys.TRIGGERS},
    EVENTS: {RANGE, "job_events_pkey", _KEY_OF_EVENTS, OLD_INDEX_OF_EVENTS},
}
"""What the new table is to have otherwise, or not any more."""
_NOT_VALIDATED: Final = """
SELECT conrelid::regclass::text, format('ALTER TABLE %%s VALIDATE CONSTRAINT %%I', conrelid::regclass, conname)
FROM pg_constraint
WHERE confrelid = to_regclass(%s) AND contype = 'f' AND NOT convalidated AND conparentid = 0
"""
# Of each index of the partitioned table, the index of the partition that is a part of it.
_PARTS_OF_INDEXES: Final = """
SELECT whole.relname::text, part.relname::text
FROM pg_index JOIN pg_class AS whole ON whole.oid = indexrelid
    LEFT JOIN (pg_inherits JOIN pg_class AS part ON part.oid = inhrelid
        JOIN pg_index AS of_part ON of_part.indexrelid = part.oid AND of_part.indrelid = to_regclass(%(partition)s))
    ON inhparent = whole.oid
WHERE pg_index.indrelid = to_regclass(%(table)s)
"""
_LIMIT: Final = """
SELECT substring(pg_get_constraintdef(oid) FROM '< ''?(\\d+)')::bigint
FROM pg_constraint WHERE conrelid = to_regclass(%s) AND conname = %s
"""
_LEFT: Final = """
SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname)
FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
WHERE conrelid IN (to_regclass(%s), to_regclass(%s)) AND conname = %s AND relkind = 'r'
UNION ALL
SELECT format('DROP INDEX %%s', indexrelid::regclass)
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE indexrelid = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(%s) AS name))
    AND relkind = 'r' AND NOT relispartition
"""

logger = logging.getLogger("database")


def convert(database: Any, size: int | None) -> None:
    """Partition what is not yet: jobs, then their events; on a connection for migrations, outside a transaction.

    Raises ConfigurationError when something would be lost or the role does not own the tables, and DatabaseBusy when
    others held the tables all the time; then nothing, or jobs alone, are partitioned, and the same again goes on.
    """
    whole = [table for table in (JOBS, EVENTS) if not is_partitioned(database, table)]
    for table in whole:
        require_none(database, table, but=(keys.INDEX, _KEY_OF_EVENTS))
    size = size or month_of_ids(database)
    try:
        for statement in _BUILT_BESIDE.values() if EVENTS in whole else ():
            _execute(database, statement)
        for table in whole:
            if table == EVENTS:
                _check_references(database)  # its own key has to hold before the table is another one's partition
            _limit_ids(database, table, size)
            patiently(database, f"partitioning {table}", partial(_partition, database, table, size))
        if not (keys.are_guarded(database) and keys.is_function_current(database)):
            patiently(database, "guarding the keys", partial(_guard, database))
    except BaseException:
        with suppress(PresgenError):  # `presgen migrate check` tells what is left, and uninstall() takes it away
            for statement in left_behind(database):
                _execute(database, statement)
        raise
    database.execute_sql(f"ANALYZE {JOBS}, {EVENTS}")  # of partitioned tables the server itself gathers no statistics


def left_behind(database: Any) -> list[str]:
    """The statements that take away what a conversion that was broken off has left, of which RANGE refuses ids."""
    values = (JOBS, EVENTS, RANGE, list(_BUILT_BESIDE))
    return [statement for (statement,) in database.execute_sql(_LEFT, values).fetchall()]


def add_partitions(database: Any, table: str, starts: Sequence[int]) -> None:
    """Create neighbours, stored as the others and with the same owner, each up to the start of the next one."""
    storage = storage_of(database, partitions_of(database, table)[0].name)
    for start, end in pairwise(starts):
        _add_partition(database, table, name_of(table, start), f"FOR VALUES FROM ({start}) TO ({end})", storage)


def _add_partition(database: Any, table: str, name: str, place: str, storage: str) -> None:
    options = f" WITH ({storage})" if storage else ""
    database.execute_sql(f"CREATE TABLE {name} PARTITION OF {table} {place}{options}")
    give_to_owner_of(database, table, name)


def _execute(database: Any, statement: str) -> None:
    """Run one statement, again while others hold a lock that it needs."""

    def run() -> None:
        with changing(database):
            database.execute_verbatim(statement)

    patiently(database, statement, run)


def _limit_ids(database: Any, table: str, size: int) -> None:
    """Let the server check, beside the writers, that all rows belong into the first partition."""
    end = end_after(database, table, room_for(size))
    limited = f"ADD CONSTRAINT {RANGE} CHECK ({KEY[table]} < {end}) NOT VALID"
    _execute(database, f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {RANGE}, {limited}")
    _execute(database, f"ALTER TABLE {table} VALIDATE CONSTRAINT {RANGE}")


def _check_references(database: Any) -> None:
    """Let the server check, beside the writers, the keys that refer to the new table.

    Somebody else's that does not hold, for it was not checked before either, stays as it is.
    """
    for table, statement in database.execute_sql(_NOT_VALIDATED, (JOBS,)).fetchall():
        try:
            _execute(database, statement)
        except (ConstraintViolation, StatementFailed) as error:
            if table == EVENTS:
                raise
            logger.warning("%s: %s", statement, error)


def _partition(database: Any, table: str, size: int) -> None:
    """Put a table into another one's first partition, which takes its name and all that it has."""
    with changing_alone(database) as schema:
        before, own, first = facts_of(database, table), belongings_of(database, table), f"{table}_first"
        (end,) = database.execute_sql(_LIMIT, (table, RANGE)).fetchone()
        names = {f"{first}_{number}": index for number, index in enumerate(own.indexes, start=1)}
        _put_aside(database, own, first, names)
        _create_whole(database, own, first)
        database.execute_sql(f"ALTER TABLE {table} ATTACH PARTITION {first} FOR VALUES FROM (MINVALUE) TO ({end})")
        database.execute_sql(f"ALTER TABLE {first} DROP CONSTRAINT {RANGE}")
        _name_indexes(database, table, first, names)
        add_partitions(database, table, _starts(database, table, end, size))
        _add_partition(database, table, f"{table}_rest", "DEFAULT", storage_of(database, first))
        own.make_again(database)
        for partition in partitions_of(database, table):
            give_to_owner_of(database, table, partition.name)
        own.add_referring(database)
        if table == JOBS:
            keys.guard(database, schema)
        require_same(before, facts_of(database, table), but=_CHANGED[table])


def _starts(database: Any, table: str, end: int, size: int) -> list[int]:
    """Where the partitions after the first one begin, and where the last one of them ends; with events as with jobs."""
    if table == EVENTS:
        return [end, *(one.end for one in partitions_of(database, JOBS) if one.end is not None and one.end > end)]
    return [end + size * number for number in range(AHEAD + 1)]


def _put_aside(database: Any, own: Belongings, name: str, names: dict[str, str]) -> None:
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
    for aside, index in names.items():
        if index in (keys.INDEX, OLD_INDEX_OF_EVENTS):
            database.execute_sql(f"DROP INDEX {index}")
        elif index == "job_events_pkey":
            new = f"ADD CONSTRAINT {aside} PRIMARY KEY USING INDEX {_KEY_OF_EVENTS}"
            database.execute_sql(f"ALTER TABLE {name} DROP CONSTRAINT {index}, {new}")
        elif index != _KEY_OF_EVENTS:
            database.execute_verbatim(f"ALTER INDEX {_quoted(index)} RENAME TO {aside}")


def _create_whole(database: Any, own: Belongings, like: str) -> None:
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


def _name_indexes(database: Any, table: str, first: str, names: dict[str, str]) -> None:
    """Give each index the name that the first partition's has had; raises ConfigurationError where that has none."""
    pairs = database.execute_sql(_PARTS_OF_INDEXES, {"table": table, "partition": first}).fetchall()
    for index, part in pairs:
        if part not in names:  # PostgreSQL would have built it just now, and kept everybody waiting
            raise ConfigurationError(f"{table} has an index whose like PostgreSQL cannot make: {index}")
        if index != names[part]:
            database.execute_verbatim(f"ALTER INDEX {_quoted(index)} RENAME TO {_quoted(names[part])}")


def _guard(database: Any) -> None:
    with changing_alone(database) as schema:
        keys.guard(database, schema)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
