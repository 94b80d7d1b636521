"""DatabaseManager: the one object that an application or a worker script holds."""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import peewee as pw

from .acting import ACTOR_MAX_LENGTH, acting_as
from .clock import is_sqlite
from .config import DatabaseConfig
from .context import begin_lazily, session, until_closed
from .database import PostgresPool
from .errors import ConfigurationError, PresgenError, ValidationError
from .features import (
    Feature,
    find_feature,
    finish_feature,
    install_feature,
    installed_features,
    schema_differences,
    uninstall_feature,
)
from .health import Health, examine
from .models import MODELS, PresentationJob, User
from .models.fenced import in_seconds
from .opening import open_database
from .queries import get_database_metrics
from .reading import Writing, reading, writing
from .sqlite import SqliteFile
from .transactions import run_in_transaction
from .validation import argument, at_least, positive, text

if TYPE_CHECKING:
    from .migrating.drift import Difference
    from .migrator import Migrator

logger = logging.getLogger("database")
Result = TypeVar("Result")


class DatabaseManager:
    """Opens the database that a DatabaseConfig or a URL names, and binds the models to it.

    As a context manager, or on first use; `close()` gives the models back the binding they had before.
    """

    def __init__(self, config: DatabaseConfig | str) -> None:
        if not isinstance(config, (DatabaseConfig, str)):
            raise ConfigurationError(f"a manager needs a DatabaseConfig or a URL, not {type(config).__name__}")
        self.config = DatabaseConfig(config) if isinstance(config, str) else config
        self._database: PostgresPool | SqliteFile | None = None
        self._resources = ExitStack()
        self._bound_before: list[tuple[Any, Any]] = []
        self._opening = threading.RLock()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> DatabaseManager:
        """A manager for the database that the environment's variables describe."""
        return cls(DatabaseConfig.from_env(environ))

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
        with self._opening:
            if self._database is not None:
                return
            with ExitStack() as resources:
                self._database = open_database(self.config, resources)
                self._resources = resources.pop_all()
            self._bound_before = [(model, model._meta.database) for model in MODELS]
            for model in MODELS:
                model.bind(self._database, bind_refs=False, bind_backrefs=False)

    def close(self) -> None:
        """Close every connection, unbind the models, and leave an embedded server."""
        with self._opening:
            database, self._database = self._database, None
            if database is None:
                return
            database.is_retired = True
            for model, before in self._bound_before:
                if model._meta.database is database:
                    # A manager that was closed in the meantime gets no models back.
                    usable = None if getattr(before, "is_retired", False) else before
                    model.bind(usable, bind_refs=False, bind_backrefs=False)
            self._resources.close()

    def require_binding(self) -> None:
        """Raise ConfigurationError when another manager has bound the models since this one did."""
        database = self.database  # opened and bound by this, when it is not yet
        if PresentationJob._meta.database is not database:
            raise ConfigurationError("the models are bound to another manager's database: close that manager first")

    # Work

    def session(self) -> AbstractContextManager[Any]:
        """Hold one connection for the block, re-entrantly; the outermost block gives it back.

        A session follows its context: coroutines, and the threads that they call with their context, share it.
        """
        return session(self.database)

    def get_session(self) -> Iterator[Any]:
        """A session as a generator, for dependency injection, which connects when it is first used.

        It may end in another thread than it began in, and undoes a transaction that is still open then. Begun by a
        coroutine, as FastAPI does, it has a connection only while a statement or transaction runs.
        """
        # With the call and not the first next(), which FastAPI makes in a thread, with a copy of the request's context.
        own = begin_lazily(self.database)
        generator = until_closed(own)
        weakref.finalize(generator, own.end).atexit = False  # one that is never started runs nothing at its end
        return generator

    # FastAPI sees by it that this is a generator, whose one parameter it takes for the `self` of a bound method.
    get_session.__wrapped__ = until_closed  # type: ignore[attr-defined]

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Hold a connection and a transaction for the block, inside another one a savepoint; gives it.

        Raises TransactionAborted at its end when an error of PostgreSQL was swallowed inside.
        """
        with self.session() as database, database.atomic() as transaction:
            yield transaction

    def run_in_transaction(
        self, work: Callable[[], Result], *, retries: int = 3, within: timedelta | float | None = None
    ) -> Result:
        """Run `work` in a transaction, and again from its start after errors that are safe to retry.

        These are deadlocks, serialization failures, lock timeouts and connections that could not be had or were
        lost before COMMIT; there are at most `retries` repeats, with a growing, jittered pause, and none begins
        after `within` (seconds or a timedelta). When the reply to COMMIT is lost, PostgreSQL is asked what became of
        the transaction: it is repeated only if it was not applied, and CommitUnknown is raised only when nobody
        answers. Inside a transaction it runs once: only the outermost can be repeated. `work` has to use this manager's
        database, and to read or make the rows that it writes: what it does elsewhere is done again with each repeat,
        and an instance from outside does not forget a save() that was rolled back.
        """
        if not callable(work):
            raise ValidationError("work must be a function", field="work", rule="type")
        retries = argument(at_least(0), retries, "retries")
        if self.database.in_transaction():
            with self.transaction():
                return work()
        deadline = math.inf if within is None else time.monotonic() + in_seconds(within, "within")
        return run_in_transaction(self.database, work, retries=retries, deadline=deadline)

    def acting_as(self, user: User | int | None = None, *, actor: str | None = None) -> AbstractContextManager[None]:
        """Run the block's statements on behalf of a user, in transactions that carry user and actor to the database.

        `actor` is who runs them, for the audit log, by default `user <id>`. The block follows its context, as sessions
        do. Nested blocks may name another actor; another user raises AlreadyActing.
        """
        if user is None and actor is None:
            raise ValidationError("acting_as() needs a user, an actor, or both", field="user", rule="required")
        if user is not None:
            user = argument(positive(), User.id.clean_value(user._pk if isinstance(user, User) else user), "user")
        actor = None if actor is None else argument(partial(text, max_length=ACTOR_MAX_LENGTH), actor, "actor")
        return acting_as(self.database, user, actor)

    # Replicas

    def reading(self, *, after: str | None = None) -> AbstractContextManager[None]:
        """Let the block's plain SELECTs go to a replica that has caught up, if there is one; for this context alone.

        What is in a transaction, locks rows or is no SELECT stays with the primary, and a write raises ReadOnlyBlock.
        Reads see what this context has written in writing(), and what `after`, such a block's token, stands for.
        """
        return reading(self.database, after)

    def writing(self) -> AbstractContextManager[Writing]:
        """Remember where the block's writes end, so that later reading() blocks of this context see them.

        It gives an object whose `token`, once all is committed, says the same to other processes. One round trip.
        """
        return writing(self.database, self._log_position)

    def _log_position(self) -> int:
        database = self.database
        if is_sqlite(database):
            return 0
        opt_in: Any = import_module(".ext.replicas", __package__)
        return int(opt_in.flushed(database))

    # Schema

    @property
    def migrations(self) -> Migrator:
        """The migrations of this database."""
        from .migrator import Migrator

        return Migrator(self.database)

    def locked_for_migrations(self) -> PostgresPool | SqliteFile:
        """The database, connected, with other migrators kept out until the process ends; for `pw_migrate`."""
        atexit.register(self.close)
        return self.migrations.locked()

    def init_db(self) -> None:
        """Bring the schema to its newest state."""
        self.migrate()

    def migrate(self, target: str | None = None, *, expand_only: bool = False) -> list[str]:
        """Apply pending migrations, up to `target`, or to the first that contracts; gives their names.

        Raises MigrationError.
        """
        return self.migrations.migrate(target, expand_only=expand_only)

    def rollback(self, count: int = 1) -> list[str]:
        """Undo the latest `count` migrations; gives their names. Raises MigrationError."""
        return self.migrations.rollback(count)

    def pending_migrations(self) -> list[str]:
        """The names of the migrations that are still to be applied."""
        return self.migrations.pending()

    def schema_differences(self) -> list[Difference]:
        """How the database's schema differs from what models, migrations and its features declare.

        Raises ConfigurationError for a role that may not create a schema, in which to build what is declared.
        """
        return schema_differences(self.database)

    # Features

    def install(self, feature: str, **options: Any) -> None:
        """Install an opt-in feature in the database; again is no error, and brings it to its newest state.

        `options` are those of the feature's own `install()`. Raises ConfigurationError for a feature or an option that
        does not exist, or not on this backend.
        """
        self.run_in_transaction(lambda: install_feature(self.database, feature, **options))
        finish_feature(self.database, feature, **options)

    def uninstall(self, feature: str, **options: Any) -> None:
        """Take a feature away, and what it has stored; raises ConfigurationError for one that does not exist."""
        self.run_in_transaction(lambda: uninstall_feature(self.database, feature, **options))

    def features(self) -> list[str]:
        """The features that the database has, as its catalog says."""
        return installed_features(self.database)

    @contextmanager
    def wake_ups(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake`, from another thread, when jobs may have become due while the block runs.

        Does nothing without the feature `notify`, through PgBouncer, and when the database does not answer at the
        start of the block: whoever waits for a wake-up has to poll as well.
        """
        notify: Any = find_feature("notify")
        with notify.listen(self.database.config, wake) if self._may_listen(notify) else nullcontext():
            yield

    def _may_listen(self, notify: Feature) -> bool:
        try:
            database = self.database
            if is_sqlite(database) or database.config.pgbouncer:
                return False
            with session(database):
                return notify.is_installed(database)
        except (PresgenError, pw.PeeweeException) as error:
            logger.debug("No wake-ups, workers poll: %s", error)
            return False

    # Health

    def health_check(self) -> bool:
        """Whether the database answers."""
        return self.health().ok

    def health(self) -> Health:
        """Latency, server, role, pool and pending migrations, or why the database does not answer."""
        try:
            database = self.database
        except PresgenError as error:  # an embedded server that does not start
            return Health(ok=False, error=str(error))
        return examine(database)

    def metrics(self) -> dict[str, Any]:
        """queries.get_database_metrics(), queue_metrics.get_queue_metrics(), and pool_stats() as `pool`."""
        from .queue_metrics import get_queue_metrics

        self.require_binding()
        with self.session():
            metrics = {**get_database_metrics(), **get_queue_metrics()}
        replicas = self.database.replicas
        return {**metrics, "pool": self.pool_stats(), **({} if replicas is None else {"replicas": replicas.stats()})}

    def pool_stats(self) -> dict[str, float]:
        """Connections now and since the start, as Checkout.pool_stats() says."""
        return self.database.pool_stats()
