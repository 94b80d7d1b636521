"""Health: one look at the database, for probes and people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import peewee as pw

from .clock import is_sqlite
from .context import session
from .errors import PresgenError


@dataclass(frozen=True)
class Health:
    """What a look at the database found; `error` says in one line why it is not ok."""

    ok: bool
    latency_seconds: float | None = None
    server_version: str | None = None
    role: str | None = None
    """`primary`, or `replica` for a standby in recovery."""
    pending_migrations: tuple[str, ...] = ()
    pool: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


def examine(database: Any) -> Health:
    """Ask the database how it is; never raises for a database that does not answer."""
    from .migrator import Migrator

    began = time.monotonic()
    try:
        # A server that says nothing is not healthy, however long statements may take.
        with database.answering_within(database.config.connect_timeout), session(database):
            version, is_replica = _ask(database)
            latency = time.monotonic() - began
            pending = tuple(Migrator(database).pending())
    except (PresgenError, pw.PeeweeException) as error:
        reason = str(error).strip().partition("\n")[0]
        return Health(ok=False, pool=database.pool_stats(), error=reason)
    return Health(
        ok=True,
        latency_seconds=latency,
        server_version=version,
        role="replica" if is_replica else "primary",
        pending_migrations=pending,
        pool=database.pool_stats(),
    )


def _ask(database: Any) -> tuple[str, bool]:
    if is_sqlite(database):
        (version,) = database.execute_sql("SELECT sqlite_version()").fetchone()
        return f"SQLite {version}", False
    sql = "SELECT current_setting('server_version'), pg_is_in_recovery()"
    version, is_replica = database.execute_sql(sql).fetchone()
    return f"PostgreSQL {version}", is_replica
