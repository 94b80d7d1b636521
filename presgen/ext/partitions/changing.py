"""The transactions in which partitions are made and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ...clock import is_sqlite
from ...errors import ConfigurationError
from ...migrating.turns import is_behind_pgbouncer
from ...roles import schema_of
from .ranges import EVENTS, JOBS

# In the order in which everybody else takes them: whoever deletes a user, and whoever changes a job.
_LOCKS: Final = (
    "LOCK TABLE users, voice_clones IN SHARE ROW EXCLUSIVE MODE",
    f"LOCK TABLE {JOBS}, {EVENTS} IN ACCESS EXCLUSIVE MODE",
)


def require_server(database: Any) -> None:
    """Raise ConfigurationError on SQLite and through PgBouncer, which has no place for what a connection sets."""
    if is_sqlite(database):
        raise ConfigurationError("partitions need PostgreSQL")
    if is_behind_pgbouncer(database):
        raise ConfigurationError("partitions are made on the server itself, and not through PgBouncer")


@contextmanager
def changing(database: Any) -> Iterator[str]:
    """A transaction in the schema of the tables, which it gives as SQL has to write it.

    Each statement sees what others have committed before it.
    """
    with database.atomic():
        database.execute_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        schema = schema_of(database)
        database.execute_verbatim(f"SET LOCAL search_path = {schema}, pg_temp")
        yield schema


@contextmanager
def changing_alone(database: Any) -> Iterator[str]:
    """The same, with everybody else kept from the tables: what is read then is so until the end."""
    with changing(database) as schema:
        for statement in _LOCKS:
            database.execute_sql(statement)
        yield schema


@contextmanager
def seeing_all(database: Any) -> Iterator[None]:
    """For what is read here; a table of which policies would let this role see a part only is an error."""
    database.execute_sql("SET LOCAL row_security = off")
    yield
    database.execute_sql("SET LOCAL row_security = on")
