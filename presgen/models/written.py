"""Rows that compiled statements write: what the caller gives is bound, and what follows from it is part of the text."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from functools import reduce
from operator import and_
from typing import Any, Final

import peewee as pw

from ..compiled import Parameter, Statement, compiled

Row = dict[Any, Any]
"""Values by field."""
Shape = tuple[tuple[str, Any], ...]
"""The fields of a row by name, each with a constant or SQL that is part of the text, or BOUND."""

BOUND: Final = object()
_GUARD: Final = "stored "
# What follows from a row depends on these; there are few of them.
_CONSTANTS: Final = (type(None), Enum, pw.Node)


def shape_of(row: Row) -> Shape:
    """The row without the values that are bound."""
    return tuple([(field.name, value if isinstance(value, _CONSTANTS) else BOUND) for field, value in row.items()])


def template(model: Any, shape: Shape) -> Row:
    """A row of that shape, with Parameters for the values."""
    fields = model._meta.fields
    return {fields[name]: fields[name].parameter(name) if value is BOUND else value for name, value in shape}


def guarded(model: Any, shape: Shape) -> Any:
    """The condition that a stored row has certain values."""
    return reduce(and_, (_has(model._meta.fields[name], value) for name, value in shape))


def guard_values(row: Row) -> dict[str, Any]:
    """The values of a condition that `guarded()` gives."""
    return {_GUARD + field.name: value for field, value in row.items()}


def _has(field: Any, value: Any) -> Any:
    if value is None:
        return field.is_null()
    return field == (Parameter(_GUARD + field.name) if value is BOUND else value)


class Write:
    """The INSERT of a row, or with a condition the UPDATE, and what is known of the row once it is written."""

    def __init__(self, model: Any, row: Row, *, where: Any = None, also_read: Iterable[Any] = ()) -> None:
        self.row = row
        unknown = {*also_read, *(field for field, value in row.items() if _is_computed(value))}
        if where is None:
            unknown.update(set(model._meta.sorted_fields) - row.keys())
        self._read_back = sorted(unknown, key=model._meta.sorted_fields.index) or [model._meta.primary_key]
        self._known = {field: value for field, value in row.items() if not isinstance(value, pw.Node)}
        query = pw.ModelInsert(model, row) if where is None else pw.ModelUpdate(model, row).where(where)
        self._statement = Statement(model, query.returning(*self._read_back))

    def run(self, model: Any, given: Row, guard: Row, **values: Any) -> Row | None:
        """The row as it was written; None if there is none that the guard lets through."""
        values |= {field.name: value for field, value in given.items()}
        values |= guard_values(guard)
        for written in self._statement.run(model, values):
            read = {field: field.python_value(value) for field, value in zip(self._read_back, written, strict=True)}
            return {**self._known, **given, **read}
        return None


def _is_computed(value: Any) -> bool:
    return isinstance(value, pw.Node) and not isinstance(value, Parameter)


def fitting(write: compiled[Write], model: Any, given: Row, *shape: Any) -> Write:
    """The statement that writes a row of that shape; one with SQL of the caller's is compiled for this time alone."""
    has_sql = any(isinstance(value, pw.Node) for value in given.values())
    return (write.build if has_sql else write)(model, shape_of(given), *shape)


@compiled
def _write(model: Any, given: Shape, guard: Shape | None) -> Write:
    row = model.derived(template(model, given), creating=guard is None)
    return Write(model, row, where=None if guard is None else guarded(model, guard))


def write_row(model: Any, given: Row, *, guard: Row | None = None) -> Row | None:
    """Insert a row of clean values, or update the one that has the values of the guard; gives it as it was written."""
    write = fitting(_write, model, given, None if guard is None else shape_of(guard))
    return write.run(model, given, guard or {})
