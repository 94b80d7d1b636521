"""The transactions in which partitions are made and dropped."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ...clock import is_sqlite
from ...errors import ConfigurationError, StatementInvalid
from ...migrating.turns import LOCK_TIMEOUT, is_behind_pgbouncer
from ...roles import schema_of
from .ranges import EVENTS, JOBS

_REFERRING: Final = """
SELECT DISTINCT conrelid::regclass::text
FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
WHERE contype = 'f' AND confrelid IN (to_regclass(%s), to_regclass(%s)) AND NOT relispartition
ORDER BY 1
"""
# Less than the server's deadlock_timeout, which is a second if nobody says otherwise.
_BRIEFLY: Final = "200ms"
_REFERRED: Final = ("users", "voice_clones")
_ALL: Final = "ACCESS EXCLUSIVE"
_INSUFFICIENT_PRIVILEGE: Final = "42501"


def require_server(database: Any) -> None:
    """Raise ConfigurationError on SQLite and through PgBouncer, which has no place for what a connection sets."""
    if is_sqlite(database):
        raise ConfigurationError("partitions need PostgreSQL")
    if is_behind_pgbouncer(database):
        raise ConfigurationError("partitions are made on the server itself, and not through PgBouncer")


@contextmanager
def changing(database: Any) -> Iterator[str]:
    """A transaction in the schema of the tables, which it gives as SQL has to write it.

    Each statement sees what others have committed before it. Raises ConfigurationError as owners_only() does.
    """
    with owners_only(), database.atomic():
        database.execute_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        schema = schema_of(database)
        database.execute_verbatim(f"SET LOCAL search_path = {schema}, pg_temp")
        yield schema


@contextmanager
def owners_only() -> Iterator[None]:
    """Raise ConfigurationError where PostgreSQL tells that the role may not do something."""
    try:
        yield
    except StatementInvalid as error:
        if error.sqlstate != _INSUFFICIENT_PRIVILEGE:
            raise
        raise ConfigurationError(f"to make partitions, connect as the role that owns the tables: {error}") from None


@contextmanager
def adding(database: Any) -> Iterator[str]:
    """The same, with everybody else kept from jobs and events, and from writing what they refer to."""
    _stop_autovacuum(database)
    with changing(database) as schema:
        _lock(database, {**dict.fromkeys(_REFERRED, "SHARE ROW EXCLUSIVE"), **dict.fromkeys((JOBS, EVENTS), _ALL)})
        yield schema


@contextmanager
def changing_alone(database: Any) -> Iterator[str]:
    """The same, with everybody else kept from all tables, also those whose keys refer here."""
    _stop_autovacuum(database)
    with changing(database) as schema:
        referring = [table for (table,) in database.execute_sql(_REFERRING, (JOBS, EVENTS)).fetchall()]
        groups = [_REFERRED, (JOBS, EVENTS, *referring)]
        # Who adds a job locks jobs and then, for the keys, users; who has read a user and adds a job, the other way.
        random.shuffle(groups)
        _lock(database, dict.fromkeys(itertools.chain(*groups), _ALL))
        yield schema


def _stop_autovacuum(database: Any) -> None:
    """Let PostgreSQL end an autovacuum of the tables, as it does when somebody waits for a second; writers go on."""
    with changing(database):
        database.execute_sql(f"LOCK TABLE {JOBS}, {EVENTS} IN SHARE UPDATE EXCLUSIVE MODE")


def _lock(database: Any, modes: dict[str, str]) -> None:
    """Take the locks that PostgreSQL would take on the way, each table's in its mode; raises DatabaseBusy.

    For the first table it is waited as long as a migration waits. Who has a lock on one of the others may be about to
    take one on the first: for those it is waited so briefly that PostgreSQL sees no deadlock yet.
    """
    for table, mode in modes.items():
        database.execute_verbatim(f"LOCK TABLE {table} IN {mode} MODE")
        database.execute_sql(f"SET LOCAL lock_timeout = '{_BRIEFLY}'")
    database.execute_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
