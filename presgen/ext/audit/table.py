"""The log's table and the choice of tables on both backends, and names and texts as SQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from .entry import OPERATIONS

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS audit_log (
    id {id},
    at TIMESTAMPTZ NOT NULL DEFAULT {now},
    operation VARCHAR(8) NOT NULL,
    table_name VARCHAR(63),
    row_id BIGINT,
    old {json},
    new {json},
    action VARCHAR(255),
    details {json},
    user_id BIGINT{user_id},
    actor VARCHAR(255){actor},
    database_user VARCHAR(63){database_user},
    transaction_id BIGINT{transaction_id},
    CONSTRAINT audit_log_operation CHECK (operation IN ({operations})),
    CONSTRAINT audit_log_subject
        CHECK ((operation = 'ACTION') = (action IS NOT NULL) AND (operation = 'ACTION') = (table_name IS NULL))
)
"""
_INDEXES: Final = (
    "CREATE INDEX IF NOT EXISTS idx_audit_log_row ON audit_log (table_name, row_id, id)",
    # A btree and no BRIN: searches are pages in the order of time, which a BRIN cannot give.
    "CREATE INDEX IF NOT EXISTS idx_audit_log_at ON audit_log (at, id)",
    "CREATE INDEX IF NOT EXISTS idx_audit_log_actor ON audit_log (actor, at, id) WHERE actor IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS idx_audit_log_action ON audit_log (action, at, id) WHERE action IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS idx_audit_log_user ON audit_log (user_id, at, id) WHERE user_id IS NOT NULL",
)

# A view, as its content is a definition: who may write to tables cannot write to it, and rollbacks of tables leave it.
DROP_CHOICE: Final = "DROP VIEW IF EXISTS audit_tables"
CHOICE: Final = "SELECT table_name, excluded FROM audit_tables"
_CHOICE: Final = "CREATE VIEW audit_tables AS "
_CHOSEN: Final = "SELECT CAST({table} AS TEXT) AS table_name, CAST({excluded} AS TEXT) AS excluded"


def choice_of(tables: Mapping[str, Sequence[str]]) -> str:
    """The statement that stores which tables are audited, each with its excluded columns."""
    return _CHOICE + " UNION ALL ".join(
        _CHOSEN.format(table=literal(table), excluded=literal(json.dumps(list(excluded))))
        for table, excluded in sorted(tables.items())
    )


def chosen(rows: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The audited tables and their excluded columns, from the rows of CHOICE."""
    return {table: tuple(json.loads(excluded)) for table, excluded in rows}


def table_with_indexes(**words: str) -> tuple[str, ...]:
    """The statements that create the log where it is missing; `words` are types and defaults of a backend."""
    operations = ", ".join(map(literal, OPERATIONS))
    return _TABLE.format(operations=operations, **words), *_INDEXES


def quoted(name: str) -> str:
    """A name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL, for statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def filled(statement: str, words: dict[str, str]) -> str:
    """A statement with its {words} replaced; other braces stay."""
    for word, text in words.items():
        statement = statement.replace(f"{{{word}}}", text)
    return statement
