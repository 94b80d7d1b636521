"""The feature: what install() looks at before, and finish() does outside of the transaction."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from ...clock import is_sqlite
from ...errors import ConfigurationError
from ...migrating.apart import at_work
from ...validation import argument, at_least
from . import keys
from .changing import require_server
from .conversion import INDEX_OF_EVENTS, OLD_INDEX_OF_EVENTS, convert, left_behind
from .ranges import EVENTS, JOBS, is_partitioned

COST: Final = "a claim looks into every partition; unfinished jobs' keys are checked by a trigger (docs/scale.md)"
CHANGES: Final = (f"{keys.TRIGGER}*", keys.INDEX, INDEX_OF_EVENTS, OLD_INDEX_OF_EVENTS, "job_events_pkey")


def install(database: Any, size: int | str | None = None) -> None:
    """Refuse what cannot be; finish() divides the tables, each partition with room for `size` jobs, or a month's.

    Raises ConfigurationError on SQLite and through PgBouncer, ValidationError for a size that is none.
    """
    _size(size)
    require_server(database)


def finish(database: Any, size: int | str | None = None) -> None:
    """Divide the jobs and their events; raises as convert() does, and ConfigurationError inside a transaction."""
    require_server(database)
    if database.in_transaction():
        raise ConfigurationError("partitions are installed outside of a transaction, for they have their own")
    with at_work(database) as apart:
        convert(apart, _size(size))


def uninstall(database: Any) -> None:
    """Take away what an installation that was broken off has left; jobs that it has divided already stay so.

    Raises ConfigurationError where jobs and events are partitioned, since all rows would have to be moved.
    """
    if is_sqlite(database):
        return
    if is_partitioned(database, JOBS) and is_partitioned(database, EVENTS):
        raise ConfigurationError("partitions stay, for all rows would have to be moved")
    for statement in left_behind(database):
        database.execute_verbatim(statement)


def is_installed(database: Any) -> bool:
    """Whether both tables have partitions, and keys are held to one unfinished job."""
    return (
        not is_sqlite(database)
        and all(is_partitioned(database, table) for table in (JOBS, EVENTS))
        and keys.are_guarded(database)
    )


def _size(size: int | str | None) -> int | None:
    """As a number, also what `--set size=…` has as text."""
    if isinstance(size, str):
        with suppress(ValueError):
            size = int(size)
    return None if size is None else int(argument(at_least(1), size, "size"))
