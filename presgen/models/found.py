"""Rows that are found by equal values, by statements that are compiled once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import peewee as pw

from ..compiled import compiled
from ..encrypted import Sealable
from ..rows import Reading
from .written import Guard, Row, Shape, guarded

_COMPARABLE: Final = (str, int, float, datetime)


@compiled
def _having(model: Any, wanted: Shape) -> Reading:
    query = model.select().where(guarded(model, wanted))
    names = [name for name, _ in wanted]
    is_one = model._meta.primary_key.name in names
    # The key alone: what else is compared would be of its column's type, and a number that is too large an error.
    has_one_plan = len(names) == 1 and (is_one or _is_unique(model, names[0]))
    return Reading(model, query if is_one else query.limit(1), needs_session=False, has_one_plan=has_one_plan)


def _is_unique(model: Any, name: str) -> bool:
    indexes = (index for index in model._meta.fields_to_index() if index._unique)
    return any([getattr(part, "name", None) for part in index._expressions] == [name] for index in indexes)


def find(model: Any, wanted: Row) -> Any:
    """The first instance that has these values; raises DoesNotExist."""
    guard = Guard(wanted)
    for found in _having(model, guard.shape).instances(guard.values):
        return found
    raise model.DoesNotExist(f"there is no such {model.__name__}")


def equalities(model: Any, conditions: Iterable[Any], filters: Mapping[str, Any]) -> Row | None:
    """The values by field that a row has to have; None where conditions say more than that, or it takes more SQL."""
    pairs = [(model._meta.fields.get(name), value) for name, value in filters.items()]
    for condition in conditions:
        if not isinstance(condition, pw.Expression) or condition.op != pw.OP.EQ:
            return None
        pairs.append((condition.lhs, condition.rhs))
    wanted = {field: value for field, value in pairs if can_be_bound(model, field, value)}
    return wanted if wanted and len(wanted) == len(pairs) else None


def can_be_bound(model: Any, field: Any, value: Any) -> bool:
    """Whether a field of the model itself is compared with a value that is one parameter."""
    if not isinstance(value, _COMPARABLE) or isinstance(field, pw.JSONField) or not isinstance(field, pw.Field):
        return False
    if model._meta.fields.get(field.name) is not field:
        return False
    return not isinstance(field, Sealable) or field.seal(to_find=True) is None
