"""The migrations: where they are, and how they run one at a time."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import peewee as pw

from .clock import is_sqlite
from .context import session
from .errors import DatabaseBusy, DatabaseUnavailable, MigrationError
from .validation import argument, at_least, shown

if TYPE_CHECKING:
    from peewee_migrate import Router

HISTORY_TABLE: Final = "migratehistory"
LOCK_POLL_SECONDS: Final = 0.1
LOCK_TIMEOUT: Final = "2s"
"""How long a migration waits for a table's lock, while which whoever comes after it waits as well."""
LOCK_PATIENCE_SECONDS: Final = 120.0
"""For how long a migration that did not get a lock is tried again."""

# The key of the advisory lock: the first eight bytes of "presgen" padded, read as a number.
LOCK_KEY: Final = int.from_bytes(b"presgen\0", "big")

# Without a handler of the application's, a failed migration would print its traceback beside our error.
logger = logging.getLogger("database.migrations")
logger.addHandler(logging.NullHandler())


def migrations_folder() -> Path:
    """The folder of the numbered files: `presgen.migrations` when installed, `migrations/` in a checkout."""
    installed = find_spec("presgen.migrations")
    if installed is not None and installed.origin is not None:
        return Path(installed.origin).parent
    return Path(__file__).parent.parent / "migrations"


class Migrator:
    """The state of one database's schema, and the steps to change it."""

    def __init__(self, database: Any, folder: Path | None = None) -> None:
        self.database = database
        self.folder = folder or migrations_folder()

    def known(self) -> list[str]:
        """The names of the migrations that this version of presgen has, oldest first."""
        return sorted(path.stem for path in self.folder.glob("[0-9][0-9][0-9]_*.py"))

    def applied(self) -> list[str]:
        """The names that the database has recorded, oldest first; reads only."""
        with session(self.database):
            if not self.database.table_exists(HISTORY_TABLE):
                return []
            history: Any = pw.Table(HISTORY_TABLE, ("id", "name")).bind(self.database)
            return [name for (name,) in history.select(history.name).order_by(history.id).tuples()]

    def pending(self) -> list[str]:
        """The names that are still to be applied, oldest first."""
        applied = set(self.applied())
        return [name for name in self.known() if name not in applied]

    def migrate(self, target: str | None = None) -> list[str]:
        """Apply what is pending, up to `target`; gives the names. Raises MigrationError."""
        if target is not None and target not in self.known():
            raise MigrationError(f"there is no migration {shown(target)}; known are {', '.join(self.known())}")
        with self.exclusive():
            self._refuse_unknown()
            if target is not None and target in self.applied():
                return []
            wanted = [name for name in self.pending() if target is None or name <= target]
            for name in wanted:
                self._run(name, "run", name)
            return wanted

    def rollback(self, count: int = 1) -> list[str]:
        """Undo the latest `count` migrations; gives their names, newest first.

        Raises MigrationError, and ValidationError for a count that is none.
        """
        count = argument(at_least(1), count, "count")
        with self.exclusive():
            self._refuse_unknown()
            applied = self.applied()
            if count > len(applied):
                raise MigrationError(f"cannot roll back {count} of {len(applied)} applied migrations")
            undone = applied[::-1][:count]
            for name in undone:
                self._run(name, "rollback")
            return undone

    def _run(self, name: str, step: str, *arguments: str) -> None:
        """Run a step, and again while others hold a lock that it needs; raises MigrationError."""
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        self.limit_waiting()
        try:
            while not self._has_run(name, step, *arguments, is_last=time.monotonic() > deadline):
                logger.warning("%s did not get a lock within %s, and is tried again", name, LOCK_TIMEOUT)
                time.sleep(random.uniform(0.5, 1.5))
        finally:
            if not is_sqlite(self.database) and not self.database.in_transaction():
                with suppress(DatabaseUnavailable):  # and with the connection its settings
                    self.database.execute_sql("RESET lock_timeout")

    def _has_run(self, name: str, step: str, *arguments: str, is_last: bool) -> bool:
        from peewee_migrate import Router

        try:
            router: Router = Router(self.database, migrate_dir=self.folder, migrate_table=HISTORY_TABLE, logger=logger)
            getattr(router, step)(*arguments)
            return True
        except (pw.PeeweeException, OSError) as error:
            if isinstance(error, DatabaseBusy) and not is_last and not self.database.in_transaction():
                return False
            reason = str(error).strip().partition("\n")[0]
            raise MigrationError(f"{name} failed and was undone: {reason}") from error

    def _refuse_unknown(self) -> None:
        unknown = [name for name in self.applied() if name not in self.known()]
        if unknown:
            raise MigrationError(
                f"the database has migrations that this version does not know ({', '.join(unknown)}); upgrade presgen"
            )

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold a connection, and keep other migrators out; on SQLite and through PgBouncer in a transaction."""
        with session(self.database):
            if is_sqlite(self.database) or self._is_behind_pgbouncer:
                with self.database.atomic():  # one transaction, from the first look to the last step
                    if self._is_behind_pgbouncer:
                        self.take_turn()
                    yield
                return
            self.lock()
            try:
                yield
            finally:
                self.database.execute_sql("SELECT pg_advisory_unlock(%s)", (LOCK_KEY,))

    def take_turn(self) -> None:
        """Wait until no other migrator or installer is at work, and keep others out until the transaction ends."""
        self._take_advisory_lock("pg_try_advisory_xact_lock")

    @property
    def _is_behind_pgbouncer(self) -> bool:
        return bool(getattr(getattr(self.database, "config", None), "pgbouncer", False))

    def _take_advisory_lock(self, function: str = "pg_try_advisory_lock") -> None:
        # Asked for again and again: while libpq waits for a lock, no signal gets through to Python; and a statement
        # that waits has a snapshot, whose end CREATE INDEX CONCURRENTLY waits for.
        try_lock, waiting = f"SELECT {function}(%s)", False
        while not self.database.execute_sql(try_lock, (LOCK_KEY,)).fetchone()[0]:
            if not waiting:
                logger.info("Another migrator is at work; waiting for it")
                waiting = True
            time.sleep(LOCK_POLL_SECONDS)

    def limit_waiting(self) -> None:
        """Let this connection, or a transaction until its end, wait no longer than LOCK_TIMEOUT for a lock."""
        if not is_sqlite(self.database):
            sql = "SELECT set_config('lock_timeout', %s, %s)"
            self.database.execute_sql(sql, (LOCK_TIMEOUT, self.database.in_transaction()))

    def lock(self) -> None:
        """Wait until no other migrator is at work, and keep others out while the open connection lasts."""
        if self._is_behind_pgbouncer:
            raise MigrationError(
                "PgBouncer would lose pw_migrate's lock: run `presgen migrate`, or use the server itself"
            )
        if not is_sqlite(self.database):
            self._take_advisory_lock()
            return
        while not self._has_file_alone():
            # Whoever has the file open shares it, so two that wait would wait for each other.
            self.database.close()
            time.sleep(random.uniform(0.1, 2) * LOCK_POLL_SECONDS)
            self.database.connect()

    def _has_file_alone(self) -> bool:
        (patience,) = self.database.execute_sql("PRAGMA busy_timeout").fetchone()
        try:
            self.database.execute_sql("PRAGMA busy_timeout = 50")
            self.database.execute_sql("PRAGMA locking_mode = EXCLUSIVE")
            with self.database.atomic():
                return True
        except DatabaseBusy:
            return False
        finally:
            self.database.execute_sql(f"PRAGMA busy_timeout = {patience}")
