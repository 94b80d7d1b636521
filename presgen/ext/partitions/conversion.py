"""Turning a table into a partitioned one and back.

The table that is there becomes the first partition: what it holds is not moved, and not even read, since a condition
that was checked before, beside the writers, tells PostgreSQL that all of it belongs there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ...errors import ConfigurationError
from ...migrating.database import LOCK_TIMEOUT
from . import keys
from .belongings import Belongings, belongings_of
from .ranges import AHEAD, EVENTS, JOBS, KEY, bounds, last_id, month_of_ids, name_of, partitions_of

_RANGE: Final = "presgen_range"
# The primary key of events has to begin with the job's id, and the latest ones are found by their own.
_OF_EVENTS: Final = {
    "job_events_job_id_id": "UNIQUE INDEX CONCURRENTLY IF NOT EXISTS job_events_job_id_id ON job_events (job_id, id)",
    "idx_job_events_id": "INDEX CONCURRENTLY IF NOT EXISTS idx_job_events_id ON job_events (id)",
}
_KEY_OF_EVENTS: Final = "job_events_job_id_id"
_IS_VALID: Final = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
_HAS_RANGE: Final = """
SELECT convalidated, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass(%s) AND conname = %s
"""
_IN_THE_WAY: Final = """
SELECT DISTINCT pg_describe_object(classid, objid, 0)
FROM pg_depend
WHERE refclassid = 'pg_class'::regclass AND refobjid = to_regclass(%(table)s) AND classid = 'pg_rewrite'::regclass
UNION ALL
SELECT format('key %%s, by which the table refers to itself', conname)
FROM pg_constraint
WHERE conrelid = to_regclass(%(table)s) AND confrelid = conrelid AND contype = 'f'
UNION ALL
SELECT format('unique index %%s, which has no id', indexrelid::regclass)
FROM pg_index
WHERE indrelid = to_regclass(%(table)s) AND indisunique AND NOT indisprimary
    AND indexrelid::regclass::text NOT IN ('idx_presentation_jobs_idempotency_key', 'job_events_job_id_id')
"""
_UNCHECKED: Final = """
SELECT format('ALTER TABLE %%s VALIDATE CONSTRAINT %%I', conrelid::regclass, conname)
FROM pg_constraint
WHERE confrelid = to_regclass(%s) AND contype = 'f' AND NOT convalidated AND conparentid = 0
"""


# In the order in which everybody else takes them: whoever deletes a user, and whoever changes a job.
_LOCKS: Final = (
    "LOCK TABLE users, voice_clones IN SHARE ROW EXCLUSIVE MODE",
    "LOCK TABLE presentation_jobs, job_events IN ACCESS EXCLUSIVE MODE",
)


def prepare(database: Any, size: int | None) -> None:
    """Let the server check, beside the writers, what the conversion rests on; raises ConfigurationError."""
    whole = [table for table in (JOBS, EVENTS) if not partitions_of(database, table)]
    for table in whole:
        for (what,) in database.execute_sql(_IN_THE_WAY, {"table": table}).fetchall():
            raise ConfigurationError(f"{table} cannot be partitioned while there is the {what}; drop it first")
    if JOBS in whole and _range_of(database, JOBS) is None:
        end = last_id(database, belongings_of(database, JOBS).sequence) + 1 + (size or month_of_ids(database))
        with briefly(database):
            for table in whole:
                database.execute_sql(
                    f"ALTER TABLE {table} ADD CONSTRAINT {_RANGE} CHECK ({KEY[table]} < {end}) NOT VALID"
                )
    for table in whole:
        database.execute_sql(f"ALTER TABLE {table} VALIDATE CONSTRAINT {_RANGE}")
    if EVENTS in whole:
        for index, statement in _OF_EVENTS.items():
            if database.execute_sql(_IS_VALID, (index,)).fetchone() == (False,):
                database.execute_sql(f"DROP INDEX CONCURRENTLY {index}")
            database.execute_sql(f"CREATE {statement}")


@contextmanager
def briefly(database: Any) -> Iterator[None]:
    """A transaction that waits no longer for a lock than a migration does, for others wait behind it."""
    with database.atomic():
        _limit_waiting(database)
        yield


def lock(database: Any) -> None:
    """Keep everybody from the tables until the caller's transaction ends; waits no longer than a migration does."""
    _limit_waiting(database)
    for statement in _LOCKS:
        database.execute_sql(statement)


def _limit_waiting(database: Any) -> None:
    # No query: that would be where a transaction's snapshot begins, before the lock.
    database.execute_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")


def partition_jobs(database: Any, size: int | None) -> None:
    """Make the table of jobs the first partition of another one, in the caller's transaction."""
    if not partitions_of(database, JOBS):
        _partition(database, JOBS, size or month_of_ids(database))
        keys.guard(database)


def check_references(database: Any) -> None:
    """Let the server check, beside the writers, the keys that refer to the new table of jobs."""
    for (statement,) in database.execute_sql(_UNCHECKED, (JOBS,)).fetchall():
        database.execute_sql(statement)


def partition_events(database: Any) -> None:
    """Make the table of events one with the same partitions, in the caller's transaction."""
    if not partitions_of(database, EVENTS):
        _partition(database, EVENTS, None)


def add_partition(database: Any, own: Belongings, start: int, end: int | None) -> None:
    """Create one partition of a table."""
    name, settings = name_of(own.table, start), f" WITH ({own.settings})" if own.settings else ""
    database.execute_sql(f"CREATE TABLE {name} PARTITION OF {own.table} FOR VALUES {bounds(start, end)}{settings}")
    database.execute_sql(f"ALTER TABLE {name} OWNER TO {own.owner}")
    if own.table == JOBS:
        keys.create_index(database, name)


def _partition(database: Any, table: str, size: int | None) -> None:
    lock(database)
    own, first = belongings_of(database, table), f"{table}_first"
    end = _range_of(database, table)
    if end is None:
        raise ConfigurationError(f"{table} was not prepared; run: presgen install partitions")
    last = last_id(database, own.sequence)
    _put_aside(database, own, first)
    database.execute_sql(
        f"CREATE TABLE {table} (LIKE {first} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS) "
        f"PARTITION BY RANGE ({KEY[table]})"
    )
    database.execute_sql(f"ALTER TABLE {table} DROP CONSTRAINT {_RANGE}")
    _give_key(database, table, first)
    for name, text in own.keys:
        database.execute_sql(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {text}')
    for _, statement, is_unique, _ in own.indexes:
        if not is_unique:
            database.execute_sql(statement.replace("%", "%%"))
    _number(database, table, first, last)
    database.execute_sql(f"ALTER TABLE {table} ATTACH PARTITION {first} FOR VALUES {bounds(None, end)}")
    if table == JOBS:
        starts = [end + (size or 0) * number for number in range(AHEAD + 1)]
    else:
        starts = [partition.start for partition in partitions_of(database, JOBS)[1:]]
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        add_partition(database, own, start, following)
    own.make_again(database)
    for referring, name, text in own.referring:
        database.execute_sql(f"ALTER TABLE {referring} ADD CONSTRAINT {name} {text} NOT VALID")


def _put_aside(database: Any, own: Belongings, name: str) -> None:
    """Give a table another name, and its indexes; take away what the new one is to have."""
    for table, key, _ in own.referring:
        database.execute_sql(f"ALTER TABLE {table} DROP CONSTRAINT {key}")
    for policy, table, _ in own.policies:
        database.execute_sql(f"DROP POLICY {policy} ON {table}")
    for trigger, _ in own.triggers:
        database.execute_sql(f"DROP TRIGGER {trigger} ON {own.table}")
    database.execute_sql(f"ALTER TABLE {own.table} RENAME TO {name}")
    for index, *_ in own.indexes:
        if index != _KEY_OF_EVENTS:
            database.execute_sql(f'ALTER INDEX "{index}" RENAME TO "{index[:57]}_first"')


def _give_key(database: Any, table: str, first: str) -> None:
    """The primary key, which has to have the column by which rows are divided."""
    if table == JOBS:
        database.execute_sql(f"ALTER TABLE {table} ADD PRIMARY KEY (id)")
        return
    database.execute_sql(f"ALTER TABLE {first} DROP CONSTRAINT job_events_pkey_first")
    database.execute_sql(
        f"ALTER TABLE {first} ADD CONSTRAINT job_events_pkey_first PRIMARY KEY USING INDEX {_KEY_OF_EVENTS}"
    )
    database.execute_sql(f"ALTER TABLE {table} ADD PRIMARY KEY (job_id, id)")


def _number(database: Any, table: str, before: str, last: int) -> None:
    """Let ids go on where they were."""
    database.execute_sql(f"ALTER TABLE {before} ALTER COLUMN id DROP IDENTITY")
    database.execute_sql(f"ALTER TABLE {table} ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY")
    database.execute_sql("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", (table, last))


def _range_of(database: Any, table: str) -> int | None:
    """The end of what the first partition will hold; None before that is decided."""
    found = database.execute_sql(_HAS_RANGE, (table, _RANGE)).fetchone()
    return int("".join(filter(str.isdigit, found[1].partition("<")[2].partition(")")[0]))) if found else None
