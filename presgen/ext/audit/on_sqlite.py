"""The audit log on SQLite: triggers that are generated from the columns, and write the shape that PostgreSQL's do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ...clock import SQLITE_FORMAT
from ...fields import DocumentField, FlagField, MomentField
from ...models import MODELS
from .entry import ENCRYPTED, ENCRYPTED_PREFIX, MASKED, MASKED_COLUMNS
from .table import CHOICE, DROP_CHOICE, choice_of, chosen, literal, quoted, table_with_indexes

_TABLES: Final = (
    *table_with_indexes(
        id="INTEGER PRIMARY KEY AUTOINCREMENT",  # also once it was pruned whole
        now=f"(strftime('{SQLITE_FORMAT}', 'now'))",
        json="TEXT",
        user_id="",
        actor="",
        database_user="",
        transaction_id="",
    ),
    # Whom the transaction acts for: acting_as() keeps it there while one lasts.
    "CREATE TABLE IF NOT EXISTS presgen_acting (user_id INTEGER, actor TEXT)",
)
_GUARDS: Final = {
    f"presgen_audit_no_{event.lower()}": f"""
    CREATE TRIGGER presgen_audit_no_{event.lower()} BEFORE {event} ON audit_log FOR EACH ROW
    BEGIN
        SELECT RAISE(ABORT, 'audit_log is append-only; its owner may prune it');
    END
    """.strip()
    for event in ("UPDATE", "DELETE")
}
_ROWS: Final = {"INSERT": ("NEW",), "UPDATE": ("OLD", "NEW"), "DELETE": ("OLD",)}
"""The rows that the trigger of each event sees."""
_TRIGGER: Final = """
CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW
WHEN {condition}
BEGIN
    INSERT INTO audit_log (operation, table_name, row_id, old, new, user_id, actor)
    SELECT '{event}', {table_name}, {row}.id, {old}, {new},
        (SELECT user_id FROM presgen_acting), (SELECT actor FROM presgen_acting)
    FROM ({values});
END
"""
_TRIGGERS: Final = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'presgen_audit_*'"
# SQLite itself takes a name in any case, and a view for a table.
_COLUMNS: Final = """
SELECT info.name, upper(info.type) IN ('INTEGER', 'BIGINT', 'INT')
FROM sqlite_master AS known JOIN pragma_table_info(known.name) AS info
WHERE known.type = 'table' AND known.name = ?
"""
_HAS: Final = "SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view') AND name = ?"
_FORGET: Final = """
UPDATE audit_log
SET old = CASE WHEN json_extract(old, :path) IS NULL THEN old ELSE json_set(old, :path, :mask) END,
    new = CASE WHEN json_extract(new, :path) IS NULL THEN new ELSE json_set(new, :path, :mask) END
WHERE table_name = :table AND coalesce(json_extract(old, :path), json_extract(new, :path)) IS NOT NULL
"""
_ACTION: Final = """
INSERT INTO audit_log (operation, action, details, user_id, actor)
VALUES ('ACTION', ?, ?, coalesce(?, (SELECT user_id FROM presgen_acting)), (SELECT actor FROM presgen_acting))
"""


def columns_of(database: Any, table: str) -> dict[str, bool]:
    """The table's columns, and of each whether it holds whole numbers; none where there is no such table."""
    return {name: bool(is_whole) for name, is_whole in database.execute_sql(_COLUMNS, (table,)).fetchall()}


def watched(database: Any) -> dict[str, tuple[str, ...]]:
    """The tables that were chosen, each with its excluded columns."""
    return chosen(database.execute_sql(CHOICE).fetchall()) if _has(database, "audit_tables") else {}


def is_whole(database: Any) -> bool:
    """Whether the log, its guards and the triggers are there, as they would be made for the columns of today."""
    triggers = dict(database.execute_sql(_TRIGGERS).fetchall())
    tables = watched(database)
    wanted = dict(_GUARDS)
    for table, excluded in tables.items():
        wanted.update(_triggers(database, table, excluded))
    return bool(tables) and has_log(database) and triggers == wanted


def create(database: Any, tables: Mapping[str, Sequence[str]]) -> None:
    """Bring everything to its newest state."""
    for statement in _TABLES:
        database.execute_sql(statement)
    _drop_triggers(database)
    triggers = dict(_GUARDS)
    for table, excluded in tables.items():
        triggers.update(_triggers(database, table, excluded))
    for trigger in triggers.values():
        database.execute_sql(trigger)
    database.execute_sql(DROP_CHOICE)
    database.execute_sql(choice_of(tables))


def drop(database: Any) -> None:
    """Take everything away, the log included."""
    _drop_triggers(database)
    database.execute_sql(DROP_CHOICE)
    for table in ("audit_log", "presgen_acting"):
        database.execute_sql(f"DROP TABLE IF EXISTS {table}")


def has_log(database: Any) -> bool:
    """Whether there is a log, of whatever state."""
    return _has(database, "audit_log")


def require_owner(database: Any, table: str, purpose: str) -> None:
    """SQLite has no roles: whoever may write the file owns all of it."""


@contextmanager
def upkeep(database: Any) -> Iterator[None]:
    """A transaction, the only one that writes, in which entries may be changed and deleted."""
    with database.atomic():
        for name in _GUARDS:
            database.execute_sql(f"DROP TRIGGER IF EXISTS {name}")
        yield
        for guard in _GUARDS.values():
            database.execute_sql(guard)


def forget(database: Any, table: str, column: str) -> None:
    """Mask a column's recorded values."""
    database.execute_sql(_FORGET, {"table": table, "path": f'$."{column}"', "mask": ENCRYPTED})


def record_action(database: Any, name: str, details: str, user_id: int | None) -> None:
    """Write an action; `details` is JSON."""
    database.execute_sql(_ACTION, (name, details, user_id))


def _has(database: Any, name: str) -> bool:
    """Whether there is a table or view of that name."""
    (found,) = database.execute_sql(_HAS, (name,)).fetchone()
    return bool(found)


def _drop_triggers(database: Any) -> None:
    for name, _ in database.execute_sql(_TRIGGERS).fetchall():
        database.execute_sql(f"DROP TRIGGER {quoted(name)}")


def _triggers(database: Any, table: str, excluded: Sequence[str]) -> dict[str, str]:
    """The triggers of a table by their names."""
    columns = [column for column in columns_of(database, table) if column not in excluded]
    return {f"presgen_audit_{event.lower()}_{table}": _trigger(event, table, columns) for event in _ROWS}


def _trigger(event: str, table: str, columns: Sequence[str]) -> str:
    """One trigger; its values are a row for each column that it records, as JSON."""
    rows = _ROWS[event]
    is_recorded = {
        column: f"OLD.{quoted(column)} IS NOT NEW.{quoted(column)}" if event == "UPDATE" else "TRUE"
        for column in columns
    }
    values = "\n    UNION ALL ".join(
        f"SELECT {literal(column)} AS name, "
        + ", ".join(f"{_json(table, column, row, rows)} AS {row.lower()}" for row in rows)
        + f" WHERE {is_recorded[column]}"
        for column in columns
    )
    old, new = (f"json_group_object(name, json({row.lower()}))" if row in rows else "NULL" for row in ("OLD", "NEW"))
    words = {
        "name": quoted(f"presgen_audit_{event.lower()}_{table}"),
        "event": event,
        "table": quoted(table),
        "table_name": literal(table),
        "condition": " OR ".join(dict.fromkeys(is_recorded.values())),
        "row": rows[0],
        "old": old,
        "new": new,
        "values": values,
    }
    return _TRIGGER.format(**words).strip()


def _json(table: str, column: str, row: str, rows: Sequence[str]) -> str:
    """A column's value as JSON, as PostgreSQL would write it; secrets are masked."""
    stored = f"{row}.{quoted(column)}"
    if column in MASKED_COLUMNS:
        return f"CASE WHEN {stored} IS NULL THEN 'null' ELSE json_quote('{MASKED}') END"
    either = " OR ".join(
        f"substr({each}.{quoted(column)}, 1, {len(ENCRYPTED_PREFIX)}) = '{ENCRYPTED_PREFIX}'" for each in rows
    )
    return (
        f"CASE WHEN {stored} IS NULL THEN 'null' WHEN {either} THEN json_quote('{ENCRYPTED}') "
        f"{_json_of_kind(_field_of(table, column), stored)} END"
    )


def _json_of_kind(field: Any, stored: str) -> str:
    """The further branches of a CASE; what another program has stored in another form is taken as it is."""
    is_cut = f"typeof({stored}) = 'real' AND CAST(json_quote({stored}) AS REAL) <> {stored}"  # to 15 digits
    as_it_is = (
        f"WHEN typeof({stored}) = 'blob' THEN json_quote('\\x' || lower(hex({stored}))) "
        f"WHEN {is_cut} THEN printf('%!.17g', {stored}) ELSE json_quote({stored})"
    )
    if isinstance(field, FlagField):
        return f"WHEN {stored} IS 1 THEN 'true' WHEN {stored} IS 0 THEN 'false' {as_it_is}"
    if isinstance(field, DocumentField):
        return f"WHEN json_valid({stored}) THEN {stored} {as_it_is}"
    if isinstance(field, MomentField):  # 2026-01-31 14:00:00.250000+00:00, of which PostgreSQL drops the last zeros
        seconds, fraction = f"replace(substr({stored}, 1, 19), ' ', 'T')", f"substr({stored}, 20, 7)"
        moment = f"{seconds} || rtrim(rtrim({fraction}, '0'), '.') || '+00:00'"
        return f"WHEN {stored} GLOB '????-??-?? ??:??:??.??????+00:00' THEN json_quote({moment}) {as_it_is}"
    return as_it_is


def _field_of(table: str, column: str) -> Any:
    """The model's field, which knows what the column's type on SQLite does not tell."""
    model = next((model for model in MODELS if model._meta.table_name == table), None)
    return None if model is None else model._meta.columns.get(column)
