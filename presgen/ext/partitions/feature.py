"""The feature: what is done before, in and after the transaction of an installation."""

from __future__ import annotations

import random
import time
from typing import Any, Final

from ...clock import is_sqlite
from ...errors import ConfigurationError, DatabaseBusy
from ...migrating.turns import exclusive, is_behind_pgbouncer
from . import conversion
from .ranges import EVENTS, JOBS, partitions_of

COST: Final = "a claim looks into every partition; unfinished jobs' keys are checked by a trigger (docs/scale.md)"
CHANGES: Final = (
    "presgen_one_key",
    "idx_presentation_jobs_idempotency_key",
    "idx_job_events_id",
    "job_events_pkey",
)
_TRIES: Final = 30


def prepare(database: Any, size: int | None = None) -> None:
    """Check, beside the writers, what the conversion rests on; raises ConfigurationError."""
    if is_sqlite(database):
        raise ConfigurationError("partitions need PostgreSQL")
    if database.in_transaction() or is_behind_pgbouncer(database):
        raise ConfigurationError("partitions are installed outside of a transaction, on the server itself")
    with exclusive(database):
        conversion.prepare(database, size)


def install(database: Any, size: int | None = None) -> None:
    """Make the jobs' table the first of several partitions, each with room for `size` jobs, or for a month's."""
    conversion.partition_jobs(database, size)


def finish(database: Any) -> None:
    """Do the same with their events, when the server has checked that all of them have a job."""
    with exclusive(database):
        conversion.check_references(database)
        for left in reversed(range(_TRIES)):
            try:
                with conversion.briefly(database):
                    conversion.partition_events(database)
                return
            except DatabaseBusy:
                if not left:
                    raise
                time.sleep(random.uniform(0.5, 1.5))


def uninstall(database: Any) -> None:
    """Nothing without partitions; raises ConfigurationError, since their rows would have to be moved."""
    if not is_sqlite(database) and partitions_of(database, JOBS):
        raise ConfigurationError(
            "partitions stay: copy the rows into a new database with `presgen backup` to be without"
        )


def is_installed(database: Any) -> bool:
    """Whether both tables have partitions."""
    return not is_sqlite(database) and all(partitions_of(database, table) for table in (JOBS, EVENTS))
