"""AuditEntry: one line of the audit log, and the words that it is written in."""

from __future__ import annotations

import json
from typing import Any, Final

from ...fields import BigWholeField, DocumentField, IdField, MomentField, VarcharField
from ...models.base import BaseModel

OPERATIONS: Final = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "ACTION")
ACTION: Final = "ACTION"
ENCRYPTED_PREFIX: Final = "enc@@1:"
"""What the stored text of an encrypted value begins with."""
ENCRYPTED: Final = "(encrypted)"
"""What the log has in place of an encrypted value."""
MASKED_COLUMNS: Final = ("password_hash",)
"""Columns, of whatever table, of which the log tells that they are set or have changed, and nothing more."""
MASKED: Final = "(masked)"


class _ObjectField(DocumentField):
    """A JSON object of a model that is bound to no database, which would tell peewee whether the driver decodes it."""

    is_read_by_psycopg2 = False

    def python_value(self, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value


class AuditEntry(BaseModel):
    """A row that was written, a table that was truncated, or an action of the application's; only ever read.

    `old` and `new` are values by column: for UPDATE the columns that changed, for INSERT and DELETE all of them.
    `actor` and `user_id` are what `manager.acting_as()` declared; `database_user` and `transaction_id` are what
    PostgreSQL knows by itself, None on SQLite.
    """

    id = IdField()
    at = MomentField(now=True)
    operation = VarcharField(max_length=8)
    table_name = VarcharField(max_length=63, null=True)
    row_id = BigWholeField(null=True)
    old = _ObjectField(null=True)
    new = _ObjectField(null=True)
    action = VarcharField(max_length=255, null=True)
    details = _ObjectField(null=True)
    user_id = BigWholeField(null=True)
    actor = VarcharField(max_length=255, null=True)
    database_user = VarcharField(max_length=63, null=True)
    transaction_id = BigWholeField(null=True)

    class Meta:
        table_name = "audit_log"

    def __repr__(self) -> str:
        about = self.action if self.operation == ACTION else f"{self.table_name} {self.row_id}"
        return f"<AuditEntry(id={self._pk}, {self.operation} {about})>"

    @property
    def cursor(self) -> str:
        """The entry's place in searches, newest first: what `audit.search(after=…)` takes."""
        return f"{self.at.isoformat()}~{self.id}"

    def as_dict(self) -> dict[str, Any]:
        """The entry by column, as export() writes it."""
        return {name: self.__data__[name] for name in self._meta.sorted_field_names}
