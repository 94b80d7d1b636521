"""Search on SQLite: an FTS5 table for each table, which triggers keep equal to it."""

from __future__ import annotations

from typing import Any, Final

import peewee as pw

from ...errors import ConfigurationError, StatementInvalid
from ...sealing import PREFIX
from .page import Page
from .query import Query
from .subjects import SUBJECTS, Subject, not_installed
from .words import separators_for_sqlite

_REBUILD: Final = "INSERT INTO {fts} ({fts}) VALUES ('rebuild')"
_STATEMENTS: Final = (
    "CREATE VIEW {fts}_source AS SELECT id, {readable} FROM {table}",
    """
    CREATE VIRTUAL TABLE {fts} USING fts5(
        {columns}, content = '{fts}_source', content_rowid = 'id',
        tokenize = "unicode61 remove_diacritics 0 categories 'L* N* M* Co' separators '{separators}'"
    )
    """,
    """
    CREATE TRIGGER {fts}_insert AFTER INSERT ON {table} FOR EACH ROW
    BEGIN
        INSERT INTO {fts} (rowid, {columns}) VALUES (NEW.id, {new});
    END
    """,
    """
    CREATE TRIGGER {fts}_update AFTER UPDATE OF {columns} ON {table} FOR EACH ROW
    BEGIN
        INSERT INTO {fts} ({fts}, rowid, {columns}) VALUES ('delete', OLD.id, {old});
        INSERT INTO {fts} (rowid, {columns}) VALUES (NEW.id, {new});
    END
    """,
    """
    CREATE TRIGGER {fts}_delete AFTER DELETE ON {table} FOR EACH ROW
    BEGIN
        INSERT INTO {fts} ({fts}, rowid, {columns}) VALUES ('delete', OLD.id, {old});
    END
    """,
    _REBUILD,
)
_PARTS: Final = ("", "_source", "_insert", "_update", "_delete")
_READABLE: Final = "CASE WHEN substr({value}, 1, {length}) <> '{sealed}' THEN {value} END"
_COUNT: Final = "SELECT count(*) FROM sqlite_master WHERE name = ?"

_FIND: Final = """
SELECT id, rank
FROM (
    SELECT {table}.id AS id, CASE WHEN :is_ranked THEN -bm25({fts}, {weights}) END AS rank
    FROM {fts} JOIN {table} ON {table}.id = {fts}.rowid
    WHERE {fts} MATCH :words AND {is_alive} AND (:owner_id IS NULL OR {owner} = :owner_id)
)
WHERE :before_id IS NULL OR rank < :before_rank OR (rank IS :before_rank AND id < :before_id)
ORDER BY rank DESC, id DESC
LIMIT :limit
"""
# As PostgreSQL's A, B and C.
_WEIGHTS: Final = (10, 4, 2)


def install(database: Any) -> None:
    """Create and fill the FTS5 tables, and the triggers that keep them equal; anew, where there are some."""
    uninstall(database)
    for subject in SUBJECTS:
        try:
            for statement in _STATEMENTS:
                database.execute_sql(statement.format(**_words(subject)))
        except pw.DatabaseError as error:
            if "fts5" not in str(error):
                raise
            raise ConfigurationError("search needs SQLite's FTS5, which this Python's SQLite does not have") from None


def finish(_database: Any) -> None:
    """Nothing: everything is done in the transaction."""


def uninstall(database: Any) -> None:
    """Drop the triggers and the FTS5 tables."""
    for subject in SUBJECTS:
        for event in ("insert", "update", "delete"):
            database.execute_sql(f"DROP TRIGGER IF EXISTS {subject.index}_{event}")
        database.execute_sql(f"DROP TABLE IF EXISTS {subject.index}")
        database.execute_sql(f"DROP VIEW IF EXISTS {subject.index}_source")


def is_installed(database: Any) -> bool:
    """Whether every table, view and trigger is there."""
    names = [subject.index + part for subject in SUBJECTS for part in _PARTS]
    return all(database.execute_sql(_COUNT, (name,)).fetchone() == (1,) for name in names)


def found_ids(database: Any, subject: Subject, query: Query, page: Page) -> list[tuple[int, float | None]]:
    """A page of ids, each with its rank, if they are ranked; raises ConfigurationError where there is no index."""
    sql = _FIND.format(**_words(subject), is_alive=subject.is_alive, owner=f"{subject.table}.{subject.owner}")
    values = {**vars(page), "words": query.for_sqlite()}
    try:
        return database.execute_sql(sql, values).fetchall()  # type: ignore[no-any-return]
    except StatementInvalid as error:
        if f"no such table: {subject.index}" not in str(error):
            raise
    raise not_installed()


def forget(database: Any, table: str, column: str) -> None:
    """Build the table's index anew, without the words that the column had before it was sealed."""
    for subject in SUBJECTS:
        if subject.table == table and column in subject.columns and is_installed(database):
            database.execute_sql(_REBUILD.format(fts=subject.index))


def _words(subject: Subject) -> dict[str, str]:
    return {
        "table": subject.table,
        "separators": separators_for_sqlite(),
        "fts": subject.index,
        "columns": ", ".join(subject.columns),
        "readable": ", ".join(f"{_readable(column)} AS {column}" for column in subject.columns),
        "new": ", ".join(_readable(f"NEW.{column}") for column in subject.columns),
        "old": ", ".join(_readable(f"OLD.{column}") for column in subject.columns),
        "weights": ", ".join(map(str, _WEIGHTS[: len(subject.columns)])),
    }


def _readable(value: str) -> str:
    return _READABLE.format(value=value, length=len(PREFIX), sealed=PREFIX)
