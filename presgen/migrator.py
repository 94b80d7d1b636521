"""The migrations: where they are, and how they run one at a time."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import peewee as pw

from .context import session
from .errors import CommitUnknown, MigrationError
from .migrating.apart import at_work, patiently, set_apart
from .migrating.database import MigrationDatabase
from .migrating.phases import phase_of
from .migrating.turns import keep_others_out
from .validation import argument, at_least, shown

if TYPE_CHECKING:
    from peewee_migrate import Router

    from .database import PostgresPool
    from .migrating.adoption import Adoption, AdoptionPlan
    from .migrating.linting import Finding
    from .migrating.plan import PlannedStep
    from .sqlite import SqliteFile

HISTORY_TABLE: Final = "migratehistory"

_IS_MIGRATION: Final = re.compile(r"\d{3}_[^.]+\.py")
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
        return sorted(path.stem for path in self.folder.iterdir() if _IS_MIGRATION.fullmatch(path.name))

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

    def _to_apply(self, target: str | None = None, *, expand_only: bool = False) -> list[str]:
        """The names that migrate() would apply; raises MigrationError."""
        if target is not None and target not in self.known():
            raise MigrationError(f"there is no migration {shown(target)}; known are {', '.join(self.known())}")
        applied = self.applied()
        self._refuse_unknown(applied)
        if target in applied:
            return []
        names = [name for name in self.known() if name not in applied and (target is None or name <= target)]
        contracting = next((place for place, name in enumerate(names) if phase_of(name) == "contract"), None)
        return names[:contracting] if expand_only else names

    def _to_undo(self, count: int = 1) -> list[str]:
        """The names that rollback() would undo; raises MigrationError and ValidationError."""
        count = argument(at_least(1), count, "count")
        applied = self.applied()
        self._refuse_unknown(applied)
        if count > len(applied):
            raise MigrationError(f"cannot roll back {count} of {len(applied)} applied migrations")
        return applied[::-1][:count]

    def migrate(self, target: str | None = None, *, expand_only: bool = False) -> list[str]:
        """Apply what is pending, up to `target`; gives the names. Raises MigrationError.

        With `expand_only` it stops before the first migration that takes something away (`NNN_contract_…`), so that
        programs of the version before can go on.
        """
        if not self._to_apply(target, expand_only=expand_only):
            return []  # without a turn, for which a long migration of another program would have to be waited for
        with self._at_work() as migrator:
            names = migrator._to_apply(target, expand_only=expand_only)
            for name in names:
                migrator._run(name, methodcaller("run", name))
            return names

    def rollback(self, count: int = 1) -> list[str]:
        """Undo the latest `count` migrations; gives their names, newest first.

        Raises MigrationError, and ValidationError for a count that is none.
        """
        with self._at_work() as migrator:
            names = migrator._to_undo(count)
            for name in names:
                migrator._run(name, methodcaller("rollback"))
            return names

    def plan(self, target: str | None = None, *, expand_only: bool = False) -> list[PlannedStep]:
        """What migrate() would execute, and the locks that it would take; raises MigrationError."""
        return self._planned(self._to_apply(target, expand_only=expand_only), undoing=False)

    def rollback_plan(self, count: int = 1) -> list[PlannedStep]:
        """What rollback() would execute, as plan() tells it; raises MigrationError and ValidationError."""
        return self._planned(self._to_undo(count), undoing=True)

    def _planned(self, steps: list[str], *, undoing: bool) -> list[PlannedStep]:
        from .migrating.plan import plan

        return plan(self.database, self.folder, self.applied(), steps, undoing=undoing)

    def adoption_plan(self, *, timezone: str = "UTC") -> AdoptionPlan:
        """What adopt() would do, and which rows break a rule; raises MigrationError and ConfigurationError."""
        return self._adoption(timezone).plan()

    def adopt(self, *, timezone: str = "UTC", progress: Callable[[int, int], None] | None = None) -> None:
        """Take over, in place, a PostgreSQL database that the specification's SQLAlchemy models have made.

        Moments without a time zone were written in `timezone`. It is one transaction: while something is in the way, or
        a row breaks a rule, and when it fails, nothing is changed. Migrations of later versions are applied afterwards.
        Raises MigrationError, and ConfigurationError on SQLite and for a time zone that the server does not know.
        """
        with self._at_work() as migrator:
            adoption = migrator._adoption(timezone)
            migrator._run("the adoption", lambda router: _adopt(router, adoption, progress))
        self.migrate()

    def _adoption(self, timezone: str) -> Adoption:
        from .migrating.adoption import Adoption

        if self.applied():
            raise MigrationError("there is nothing to adopt: the database has migrations; run: presgen migrate")
        return Adoption(self.database, self.folder, self.known(), timezone=timezone)

    def _router(self) -> Router:
        from .migrating.router import RecordingRouter

        own = logger.getChild("router")  # what it says is for logs alone
        return RecordingRouter(self.database, migrate_dir=self.folder, migrate_table=HISTORY_TABLE, logger=own)

    def lint(self) -> list[Finding]:
        """What may hurt when the known migrations are applied to a database at work; raises MissingExtra."""
        from .migrating.linting import findings

        return findings(self.folder, self.known())

    def locked(self) -> PostgresPool | SqliteFile:
        """The database to migrate, connected, with other migrators kept out until the process ends."""
        database: PostgresPool | SqliteFile = set_apart(self.database)
        database.connect(reuse_if_open=True)
        keep_others_out(database)
        if isinstance(database, MigrationDatabase):
            database.set_limits()
        return database

    @contextmanager
    def _at_work(self) -> Iterator[Migrator]:
        """A migrator that has the database for itself."""
        with at_work(self.database) as database:
            yield Migrator(database, self.folder)

    def _run(self, name: str, step: Callable[[Router], Any]) -> None:
        """Run a step, and again while others hold a lock that it needs; raises MigrationError."""
        try:
            patiently(self.database, name, lambda: step(self._router()))
        except CommitUnknown:
            raise MigrationError(f"{name} may be applied or not, as the connection was lost; run it again") from None
        except Exception as error:  # whatever the file's code raises
            reason = (str(error).strip() or repr(error)).partition("\n")[0]
            is_half = isinstance(self.database, MigrationDatabase) and self.database.has_committed_half
            what = "failed, but what it had committed is there" if is_half else "failed and was undone"
            raise MigrationError(f"{name} {what}: {reason}") from error

    def _refuse_unknown(self, applied: list[str]) -> None:
        unknown = [name for name in applied if name not in self.known()]
        if unknown:
            raise MigrationError(
                f"the database has migrations that this version does not know ({', '.join(unknown)}); upgrade presgen"
            )


def _adopt(router: Router, adoption: Adoption, progress: Callable[[int, int], None] | None) -> None:
    with router.database.atomic():
        adoption.run(progress)
        for name in adoption.names:
            router.model.create(name=name)
