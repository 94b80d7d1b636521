"""What searches and exports of the audit log can choose by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from ...acting import ACTOR_MAX_LENGTH
from ...errors import ValidationError
from ...models import User
from ...validation import Rule, argument, moment, shown, text, whole_number
from .entry import OPERATIONS, AuditEntry
from .watching import table_name

NAME_MAX_LENGTH: Final = 255
_IDENTIFIER_MAX_LENGTH: Final = 63

id_number: Final = partial(whole_number, bits=64)


def user_number(user: Any) -> int:
    """The id of a user, who may be given as it."""
    return id_number(user._pk if isinstance(user, User) else user)


def table_text(table: Any) -> str:
    """The name of a table, which may be given as its model or an instance of that."""
    return text(table_name(table), max_length=_IDENTIFIER_MAX_LENGTH)


def narrowed(query: Any, conditions: Mapping[str, Any]) -> Any:
    """The query for the entries that meet all conditions but those that are None; raises ValidationError."""
    for name, value in conditions.items():
        if name not in CONDITIONS:
            known = ", ".join(CONDITIONS)
            raise ValidationError(f"there is no condition {shown(name)}; known are {known}", field=name, rule="unknown")
        if value is not None:
            query = query.where(argument(CONDITIONS[name], value, name))
    return query


def _operation(value: Any) -> str:
    if value in OPERATIONS and isinstance(value, str):
        return value
    raise ValidationError(f"must be one of {', '.join(OPERATIONS)}", rule="operation")


def _equals(field: Any, rule: Rule) -> Callable[[Any], Any]:
    return lambda value: field == rule(value)


CONDITIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "actor": _equals(AuditEntry.actor, partial(text, max_length=ACTOR_MAX_LENGTH)),
    "user": _equals(AuditEntry.user_id, user_number),
    "table": _equals(AuditEntry.table_name, table_text),
    "row_id": _equals(AuditEntry.row_id, id_number),
    "operation": _equals(AuditEntry.operation, _operation),
    "action": _equals(AuditEntry.action, partial(text, max_length=NAME_MAX_LENGTH)),
    "database_user": _equals(AuditEntry.database_user, partial(text, max_length=_IDENTIFIER_MAX_LENGTH)),
    "transaction_id": _equals(AuditEntry.transaction_id, id_number),
    "since": lambda value: AuditEntry.at >= moment(value),
    "until": lambda value: AuditEntry.at < moment(value),
}
"""Each makes an expression of its value, or raises ValidationError."""
