"""Which tables are audited, without which columns; installing and uninstalling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import peewee as pw

from ...clock import is_sqlite
from ...context import session
from ...errors import ConfigurationError
from ...validation import argument, several, shown
from . import on_postgresql, on_sqlite

TABLES: Final = ("users", "voice_clones", "presentation_jobs")
"""The tables that are audited where none are chosen; `job_events` is a log itself."""
EXCLUDED: Final = (
    "updated_at",
    "presentation_jobs.lease_expires_at",
    "presentation_jobs.progress",
    "presentation_jobs.checkpoint",
)
"""The columns that are left out where none are chosen: what a heartbeat writes."""
_OWN_TABLES: Final = ("audit_log", "presgen_acting")

Names = Iterable[Any] | str
"""Several names, also as one text with commas between them; a table's is also its model."""


def backend_of(database: Any) -> Any:
    """The module that knows the log on the database's backend."""
    return on_sqlite if is_sqlite(database) else on_postgresql


def install(database: Any, *, tables: Names | None = None, exclude: Names | None = None) -> None:
    """Record every write to the tables from now on, but for what changes only excluded columns.

    `tables` are names of tables with a whole-number `id`, or their models, by default TABLES; `exclude` are columns of
    all of them, or of one as `table.column`, by default EXCLUDED, which they replace. What was chosen once stays as it
    is until it is chosen anew; the view `audit_tables` tells it. Raises ConfigurationError for names that do not exist,
    and where the role does not own the tables.
    """
    backend = backend_of(database)
    before = backend.watched(database)
    chosen = list(before or TABLES) if tables is None else _names(tables, "tables")
    if not chosen:
        raise ConfigurationError("audit needs a table; known are " + ", ".join(TABLES))
    columns = {table: backend.columns_of(database, table) for table in chosen}
    for table in chosen:
        _require_auditable(table, columns[table])
    left_out = _names(EXCLUDED if exclude is None else exclude, "exclude")
    if exclude is not None:
        _require_columns(database, left_out, columns)
    excluded = {
        table: before[table] if exclude is None and table in before else _of_table(left_out, table, columns[table])
        for table in chosen
    }
    backend.create(database, excluded)


def uninstall(database: Any) -> None:
    """Record nothing any more, and drop the log."""
    backend_of(database).drop(database)


def is_installed(database: Any) -> bool:
    """Whether the log, its guard and every trigger are there, and none is switched off."""
    return bool(backend_of(database).is_whole(database))


def forget(database: Any, table: str, column: str) -> None:
    """Mask what was recorded of a column that is encrypted from now on; raises ConfigurationError for a wrong role.

    Backups, and dead rows until VACUUM, still have it. Does nothing where there is no log.
    """
    backend = backend_of(database)
    with session(database):
        if not backend.has_log(database):
            return
        backend.require_owner(database, "audit_log", "to mask what was recorded")
        with backend.upkeep(database):
            backend.forget(database, table, column)


def table_name(table: Any) -> Any:
    """The name of a model's or an instance's table; anything else as it is."""
    model = type(table) if isinstance(table, pw.Model) else table
    return model._meta.table_name if isinstance(model, type) and issubclass(model, pw.Model) else table


def _names(given: Names, option: str) -> list[str]:
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",") if name.strip()]
    names = [table_name(name) for name in argument(several, given, option)]
    for name in names:
        if not isinstance(name, str):
            raise ConfigurationError(f"audit's {option} must be names, not {shown(name)}")
    return list(dict.fromkeys(names))


def _require_auditable(table: str, columns: Mapping[str, bool]) -> None:
    if table in _OWN_TABLES or not columns:
        raise ConfigurationError(f"audit knows no plain table {shown(table)}; those of presgen are {', '.join(TABLES)}")
    if not columns.get("id"):
        raise ConfigurationError(f"audit needs a whole-number id, which the table {shown(table)} does not have")


def _require_columns(database: Any, names: Sequence[str], columns: Mapping[str, Mapping[str, bool]]) -> None:
    """Raise ConfigurationError for a name that excludes nothing: of a column that does not exist, or of the id."""
    for name in names:
        table, dot, column = name.rpartition(".")
        of_table = columns.get(table) or backend_of(database).columns_of(database, table)
        exists = column in of_table if dot else any(column in known for known in columns.values())
        if not exists or column == "id":
            raise ConfigurationError(
                f"audit cannot exclude {shown(name)}: name a column, or table.column, that exists and is not the id"
            )


def _of_table(names: Sequence[str], table: str, columns: Mapping[str, bool]) -> tuple[str, ...]:
    return tuple(column for column in columns if column in names or f"{table}.{column}" in names)
