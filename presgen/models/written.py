"""Rows that compiled statements write: what the caller gives is bound, and what follows from it is part of the text."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from functools import reduce
from operator import and_
from typing import Any, Final, TypeVar

import peewee as pw

from ..compiled import Parameter, Statement, compiled

Row = dict[Any, Any]
"""Values by field."""
Shape = tuple[tuple[str, Any], ...]
"""The fields of a row by name, each with a constant or SQL that is part of the text, or BOUND."""

Built = TypeVar("Built")

BOUND: Final = object()
# A row may set what its guard compares: the status.
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


def _has(field: Any, value: Any) -> Any:
    if value is None:
        return field.is_null()
    return field == (Parameter(_GUARD + field.name) if value is BOUND else value)


class Guard:
    """The values that a stored row has to have for a statement to find it, apart in what shapes and what is bound."""

    def __init__(self, row: Row) -> None:
        self.shape = shape_of(row)
        self.values = {_GUARD + field.name: value for field, value in row.items()}


def has_worker(guard: Shape) -> bool:
    """Whether the guard is that of a job in a worker's hand."""
    return dict(guard).get("worker", BOUND) is not None


class Write:
    """The INSERT of a row, or with a condition the UPDATE, and what is known of the row once it is written."""

    def __init__(self, model: Any, row: Row, *, where: Any = None, also_read: Iterable[Any] = ()) -> None:
        self.row = row
        unknown = {field.name for field in also_read}
        unknown |= {field.name for field, value in row.items() if _is_computed(field, value)}
        if where is None:
            unknown |= {field.name for field in model._meta.sorted_fields if field not in row}
        read_back = [field for field in model._meta.sorted_fields if field.name in unknown]
        self._read_back = read_back or [model._meta.primary_key]
        self._known = {field: value for field, value in row.items() if not isinstance(value, pw.Node)}
        query = pw.ModelInsert(model, row) if where is None else pw.ModelUpdate(model, row).where(where)
        self._statement = Statement(model, query.returning(*self._read_back), has_one_plan=True)

    def run(self, given: Row, **values: Any) -> Row | None:
        """The row as it was written; `values` are those of the guard, and more. None if the guard lets none pass."""
        values |= {field.name: value for field, value in given.items()}
        for written in self._statement.run(values):
            read = {field: field.python_value(value) for field, value in zip(self._read_back, written, strict=True)}
            return {**self._known, **given, **read}
        return None


def _is_computed(field: Any, value: Any) -> bool:
    """Whether the value is none of those that are given for the field."""
    return isinstance(value, pw.Node) and not (isinstance(value, Parameter) and value.name == field.name)


def statement_for(statement: compiled[Built], model: Any, *shape: Any) -> Built:
    """The statement of that shape; one with SQL of the caller's is compiled for this time alone."""
    rows = (part for part in shape if type(part) is tuple)
    has_sql = any(isinstance(value, pw.Node) for row in rows for _, value in row)
    return (statement.build if has_sql else statement)(model, *shape)


@compiled
def _insert(model: Any, given: Shape) -> Write:
    return Write(model, model.derived(template(model, given), creating=True))


@compiled
def _update(model: Any, given: Shape, guard: Shape) -> Write:
    return Write(model, model.derived(template(model, given), creating=False), where=guarded(model, guard))


def insert_row(model: Any, given: Row) -> Row | None:
    """Insert a row of clean values; gives it as it was written, None where a trigger would have none of it."""
    return statement_for(_insert, model, shape_of(given)).run(given)


def update_row(model: Any, given: Row, stored: Row) -> Row | None:
    """Update the row that has the `stored` values with clean ones; gives it as it was written, None without one."""
    guard = Guard(stored)
    return statement_for(_update, model, shape_of(given), guard.shape).run(given, **guard.values)
