"""DatabaseManager: the one object that an application or a worker script holds."""

from __future__ import annotations

import atexit
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import peewee as pw

from .config import DatabaseConfig
from .context import session
from .database import PostgresPool
from .driver_errors import sqlstate
from .errors import DatabaseUnavailable, PoolTimeout
from .health import Health, examine
from .migrator import Migrator
from .models import MODELS
from .queries import get_database_metrics
from .sqlite import SqliteFile

logger = logging.getLogger("database")
Result = TypeVar("Result")

# Serialization failure, deadlock, lock not available: the server has undone the whole transaction.
_RETRYABLE_STATES: Final = frozenset({"40001", "40P01", "55P03"})
_FIRST_RETRY_SECONDS: Final = 0.05


class DatabaseManager:
    """Opens the database that a DatabaseConfig or a URL names, and binds the models to it.

    As a context manager, or on first use; `close()` gives the models back the binding they had before.
    """

    def __init__(self, config: DatabaseConfig | str) -> None:
        self.config = DatabaseConfig(config) if isinstance(config, str) else config
        self._database: PostgresPool | SqliteFile | None = None
        self._server: Any = None
        self._bound_before: list[tuple[Any, Any]] = []

    @classmethod
    def from_env(cls) -> DatabaseManager:
        """A manager for the database that the environment's variables describe."""
        return cls(DatabaseConfig.from_env())

    def __repr__(self) -> str:
        return f"<DatabaseManager {self.config.safe_url}>"

    def __enter__(self) -> DatabaseManager:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def database(self) -> PostgresPool | SqliteFile:
        """The peewee database; opened when it is not."""
        self.open()
        assert self._database is not None
        return self._database

    def open(self) -> None:
        """Open the pool and bind the models; connections are made when they are needed."""
        if self._database is not None:
            return
        config = self.config
        if config.backend == "sqlite":
            self._database = SqliteFile(config)
        else:
            if config.backend == "embedded":
                config = self._started_server(config)
            self._database = PostgresPool(config)
        self._bound_before = [(model, model._meta.database) for model in MODELS]
        for model in MODELS:
            model.bind(self._database, bind_refs=False, bind_backrefs=False)

    def close(self) -> None:
        """Close every connection, unbind the models, and leave an embedded server."""
        database, self._database = self._database, None
        if database is None:
            return
        for model, before in self._bound_before:
            if model._meta.database is database:
                model.bind(before, bind_refs=False, bind_backrefs=False)
        database.close_all()
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _started_server(self, config: DatabaseConfig) -> DatabaseConfig:
        from .embedded import EmbeddedServer

        self._server = EmbeddedServer(Path(config.path))
        self._server.start()
        return replace(config, url=self._server.url)

    # Work

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Hold one connection for the block, re-entrantly; the outermost block gives it back."""
        with session(self.database) as database:
            yield database

    def get_session(self) -> Iterator[Any]:
        """session() as a generator, for dependency injection."""
        with self.session() as database:
            yield database

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Hold a connection and a transaction for the block; inside another one, a savepoint."""
        with self.session() as database, database.atomic():
            yield database

    def run_in_transaction(self, work: Callable[[], Result], *, retries: int = 3) -> Result:
        """Run `work` in a transaction, and again from its start after errors that are safe to retry.

        These are deadlocks, serialization failures, lock timeouts and connections that could not be had or were
        lost before COMMIT; there are at most `retries` repeats, with a growing, jittered pause. Inside a
        transaction it runs once: only the outermost can be repeated.
        """
        nested = self.database.in_transaction()
        for attempt in range(retries + 1):
            try:
                with self.transaction():
                    return work()
            except (pw.OperationalError, PoolTimeout) as error:
                if nested or attempt == retries or not _is_retryable(error):
                    raise
                pause = _FIRST_RETRY_SECONDS * 2**attempt * random.uniform(0.5, 1.5)
                logger.info("Transaction failed (%s); again in %.2f s", type(error).__name__, pause)
            time.sleep(pause)
        raise AssertionError("unreachable")

    # Schema

    @property
    def migrations(self) -> Migrator:
        """The migrations of this database."""
        return Migrator(self.database)

    def locked_for_migrations(self) -> PostgresPool | SqliteFile:
        """The database, connected, with other migrators kept out until the process ends; for `pw_migrate`."""
        atexit.register(self.close)
        self.database.connect(reuse_if_open=True)
        self.migrations.lock()
        return self.database

    def init_db(self) -> None:
        """Bring the schema to its newest state."""
        self.migrate()

    def migrate(self, target: str | None = None) -> list[str]:
        """Apply pending migrations, up to `target`; gives their names. Raises MigrationError."""
        return self.migrations.migrate(target)

    def rollback(self, count: int = 1) -> list[str]:
        """Undo the latest `count` migrations; gives their names. Raises MigrationError."""
        return self.migrations.rollback(count)

    def pending_migrations(self) -> list[str]:
        """The names of the migrations that are still to be applied."""
        return self.migrations.pending()

    # Health

    def health_check(self) -> bool:
        """Whether the database answers."""
        return self.health().ok

    def health(self) -> Health:
        """Latency, server, role, pool and pending migrations, or why the database does not answer."""
        try:
            database = self.database
        except DatabaseUnavailable as error:  # an embedded server that does not start
            return Health(ok=False, error=str(error))
        return examine(database)

    def metrics(self) -> dict[str, Any]:
        """The counts of queries.get_database_metrics() (one statement), and the pool's statistics as `pool`."""
        return {**self._bound_metrics(), "pool": self.pool_stats()}

    def _bound_metrics(self) -> Mapping[str, Any]:
        with self.session():
            return get_database_metrics()

    def pool_stats(self) -> dict[str, int]:
        """Connections `in_use` and `idle`, and `max_connections`."""
        return self.database.pool_stats()


def _is_retryable(error: Exception) -> bool:
    return getattr(error, "retryable", False) or sqlstate(error) in _RETRYABLE_STATES
