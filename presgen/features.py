"""The opt-in features: found by name in `presgen.ext`, installed in a database and not in a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from .clock import is_sqlite
from .context import session
from .errors import ConfigurationError, MigrationError, StatementInvalid
from .migrating.turns import LOCK_TIMEOUT, take_turn
from .validation import shown

if TYPE_CHECKING:
    from .migrating.drift import Difference

FEATURES: Final = ("notify", "audit", "tenancy", "encryption", "archive", "search", "partitions")
"""The modules of `presgen.ext` that are features; listing them needs none of their libraries."""

# CREATE TRIGGER waits for the writers at work, and while it waits all others wait behind it.
_LOCK_TIMEOUT: Final = LOCK_TIMEOUT
_INSUFFICIENT_PRIVILEGE: Final = "42501"


class Feature(Protocol):
    """What a feature's module has. Each function runs in a transaction, and may run again and again.

    It may also have `finish(database)`, with the options of `install()`, for what PostgreSQL does outside a transaction
    only; `STORES`, the words for what is lost when it is uninstalled; `SECRETS`, (table, column) pairs that are secret
    once it is installed; `CHANGES`, patterns of the names that it adds to presgen's tables, or has otherwise than the
    models do; and `forget(database, table, column)`, which masks what the feature itself has recorded of such a column,
    and does nothing where that is nothing.
    """

    COST: str
    """What it costs, in a few words."""

    def install(self, database: Any, **options: Any) -> None:
        """Bring the feature's tables, triggers and functions to their newest state.

        Raises ConfigurationError where the feature cannot be had.
        """

    def uninstall(self, database: Any, **options: Any) -> None:
        """Take away whatever there is of it, also where that is nothing."""

    def is_installed(self, database: Any) -> bool:
        """Whether the database's catalog has the whole of it."""


def find_feature(name: str) -> Feature:
    """The module of a feature; raises ConfigurationError for a name that is none."""
    if name not in FEATURES:
        raise ConfigurationError(f"there is no feature {shown(name)}; known are {', '.join(FEATURES)}")
    return cast(Feature, import_module(f".ext.{name}", __package__))


def install_feature(database: Any, name: str, **options: Any) -> None:
    """Install a feature in one transaction. Raises ConfigurationError, MigrationError when migrations are pending.

    Raises DatabaseBusy, which is safe to retry, when other transactions held the locks that it needs.
    """
    from .migrator import Migrator

    feature = find_feature(name)
    _require_known(name, feature.install, options)
    with _changing(database, f"to install {name}"):
        pending = Migrator(database).pending()
        if pending:
            raise MigrationError(f"{name} needs the newest schema and {pending[0]} is pending; run: presgen migrate")
        feature.install(database, **options)
        for table, column in getattr(feature, "SECRETS", ()):
            forget_column(database, table, column)


def finish_feature(database: Any, name: str, **options: Any) -> None:
    """Do what comes after the transaction of install_feature(), in which the caller may still be."""
    finish = getattr(find_feature(name), "finish", None)
    if finish is not None:
        with session(database):
            finish(database, **options)


def uninstall_feature(database: Any, name: str, **options: Any) -> None:
    """Take a feature away in one transaction; raises as install_feature() does, but for pending migrations."""
    feature = find_feature(name)
    _require_known(name, feature.uninstall, options)
    with _changing(database, f"to uninstall {name}"):
        feature.uninstall(database, **options)


def installed_features(database: Any) -> list[str]:
    """The names of the features that the database has."""
    with session(database):
        return [name for name in FEATURES if find_feature(name).is_installed(database)]


def schema_differences(database: Any) -> list[Difference]:
    """How the schema differs from what models, migrations and installed features declare; see drift.differences()."""
    from .migrating.drift import differences
    from .migrator import Migrator

    features, migrator = installed_features(database), Migrator(database)
    other = [pattern for name in features for pattern in getattr(find_feature(name), "CHANGES", ())]
    return differences(database, migrator.folder, migrator.known(), other=other)


def forget_column(database: Any, table: str, column: str) -> None:
    """Let every feature mask what it has recorded of a column that has become secret."""
    for name in FEATURES:
        forget = getattr(find_feature(name), "forget", None)
        if forget is not None:
            forget(database, table, column)


def _require_known(name: str, function: Callable[..., None], options: Mapping[str, Any]) -> None:
    known = list(signature(function).parameters)[1:]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ConfigurationError(f"{name} has no option {shown(unknown[0])}; its options: {', '.join(known) or 'none'}")


@contextmanager
def _changing(database: Any, purpose: str) -> Iterator[None]:
    """A transaction that changes the schema; raises ConfigurationError for a role that may not."""
    try:
        with session(database), database.atomic():
            _keep_others_out(database)
            yield
    except StatementInvalid as error:
        if error.sqlstate != _INSUFFICIENT_PRIVILEGE:
            raise
        raise ConfigurationError(f"{purpose}, connect as the role that owns presgen's tables: {error}") from None


def _keep_others_out(database: Any) -> None:
    """Let no migrator and no other installer in until the transaction ends; on SQLite, BEGIN IMMEDIATE did so."""
    if is_sqlite(database):
        return
    database.execute_sql("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
    take_turn(database)
