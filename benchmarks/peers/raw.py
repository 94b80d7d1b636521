"""psycopg2 without any library above it: the statements that presgen sends, as a limit.

They are sent as they are, but where they are said to be prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg2.extensions import AsIs

from ..filling import connected

_INSERT = """
INSERT INTO users (name, email, is_active, created_at, updated_at)
VALUES (%s, %s, %s, statement_timestamp(), statement_timestamp())
RETURNING id, password_hash, created_at, updated_at
"""
_UPDATE = """
UPDATE presentation_jobs SET slides_count = %s, updated_at = statement_timestamp() WHERE id = %s
RETURNING id, updated_at
"""


class Captured:
    """What presgen sends for an operation: a statement and its parameters, run again on a connection of its own."""

    def __init__(self, url: str, database: Any, operation: Callable[[], Any]) -> None:
        events: list[Any] = []
        database.query_hooks.append(events.append)
        operation()
        database.query_hooks.remove(events.append)
        self.statements = [(event.sql, list(event.params or ())) for event in events]
        self.cursor = connected(url).cursor()

    def fetch_one(self, *leading: Any) -> Any:
        """The first row of the first statement, with other values for its first parameters."""
        sql, params = self.statements[0]
        self.cursor.execute(sql, [*leading, *params[len(leading) :]])
        return self.cursor.fetchone()

    def prepare(self) -> None:
        """Have the server keep the first statement, whose first parameter is another one each time."""
        sql, params = self.statements[0]
        self.cursor.execute(f"PREPARE bare AS {sql}", [AsIs("$1"), *params[1:]])

    def fetch_prepared(self, value: Any) -> Any:
        """The first row of the first statement, with another value for its first parameter."""
        self.cursor.execute("EXECUTE bare(%s)", (value,))
        return self.cursor.fetchone()

    def fetch_all(self) -> list[Any]:
        """All rows of the first statement."""
        self.cursor.execute(*self.statements[0])
        return self.cursor.fetchall()  # type: ignore[no-any-return]

    def names(self) -> tuple[str, ...]:
        """The columns of the rows fetched last."""
        return tuple(column.name for column in self.cursor.description)

    def fetch_dicts(self) -> list[dict[str, Any]]:
        """All rows as dicts; of two columns with the same name the second one's is prefixed."""
        rows, names = self.fetch_all(), list(self.names())
        keys = [name if name not in names[:place] else f"owner_{name}" for place, name in enumerate(names)]
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def close(self) -> None:
        """Close the connection."""
        self.cursor.connection.close()


def insert_user(cursor: Any, name: str, email: str) -> Any:
    """Insert a user; gives the id."""
    cursor.execute(_INSERT, (name, email, True))
    return cursor.fetchone()[0]


def update_job(cursor: Any, job_id: int, slides: int) -> Any:
    """Change a job; gives the id."""
    cursor.execute(_UPDATE, (slides, job_id))
    return cursor.fetchone()[0]
