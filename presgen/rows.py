"""Rows as instances: what Peewee makes of them, for statements that give all the columns of a model.

Peewee's own cursors set each value as an attribute, which counts it as a change, and take that back: reading a page
takes them several times as long as fetching it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timezone
from typing import Any, TypeVar

from playhouse import signals

from .clock import is_sqlite
from .compiled import NOTHING, Statement, Values, compiled
from .fields import MomentField

Fetched = Sequence[Any]
"""A row, as the driver gives it."""
One = TypeVar("One", bound=Any)


class Reader:
    """Makes instances of a model from rows that begin with its columns, in the order of its fields.

    What has to be converted depends on the database that the model is bound to.
    """

    def __init__(self, model: Any) -> None:
        fields = model._meta.sorted_fields
        self._model, self._names = model, [field.name for field in fields]
        self._width = len(fields)
        is_psycopg2 = not is_sqlite(model._meta.database)
        left = [field for field in fields if not (is_psycopg2 and getattr(field, "is_read_by_psycopg2", False))]
        # Psycopg2's moments are in the session's time zone, nearly always UTC: to look is cheaper than to convert.
        self._moments = [field.name for field in left if is_psycopg2 and isinstance(field, MomentField)]
        self._converters = [(field.name, field.python_value) for field in left if field.name not in self._moments]
        self._has_own_init = model.__init__ is not getattr(model, "init_that_only_checks", None)

    def __call__(self, rows: Iterable[Fetched], *, is_in_utc: bool = False) -> list[Any]:
        """The instances of rows; moments need no look where they are in UTC."""
        model, names, converters, has_own_init = self._model, self._names, self._converters, self._has_own_init
        moments = () if is_in_utc else self._moments
        has_listeners = bool(signals.pre_init._receiver_list)  # to ask for each row takes a tenth of the time
        instances: list[Any] = []
        new, add = model.__new__, instances.append
        for row in rows:
            values = dict(zip(names, row))  # noqa: B905  # it may go on
            for name in moments:
                moment = values[name]
                if moment is not None and moment.tzinfo is not timezone.utc:
                    values[name] = moment.astimezone(timezone.utc)
            for name, convert in converters:
                value = values[name]
                if value is not None:
                    values[name] = convert(value)
            if has_own_init:
                instance = _initialized(model, values)
            else:
                instance = new(model)
                instance.__data__, instance.__rel__, instance._dirty = values, {}, set()
                if has_listeners:
                    signals.pre_init.send(instance)
            add(instance)
        return instances

    def with_other(
        self, rows: Sequence[Fetched], name: str, read_others: Reader, *, is_in_utc: bool = False
    ) -> list[Any]:
        """The instances of rows that go on with the row that a foreign key refers to; equal ones share an instance."""
        instances, place, width = self(rows, is_in_utc=is_in_utc), self._names.index(name), self._width
        rest = {row[place]: row[width:] for row in rows}
        others = dict(zip(rest, read_others(rest.values(), is_in_utc=is_in_utc), strict=True))
        for instance, row in zip(instances, rows, strict=True):
            instance.__rel__[name] = others[row[place]]
        return instances


def _initialized(model: Any, values: dict[str, Any]) -> Any:
    """An instance of a model whose `__init__` does more than Peewee's, which calls it with the values."""
    instance = model(__no_default__=1, **values)
    instance._dirty.clear()
    return instance


@compiled
def reader_of(model: Any) -> Reader:
    """What makes instances of a model's rows."""
    return Reader(model)


def with_many(ones: list[One], many: Iterable[Any], key: Any) -> list[One]:
    """The instances, each with those of the others that refer to it in a list by the foreign key's name for them.

    Those that refer to none of them are left out.
    """
    lists: dict[Any, list[Any]] = {}
    by_id = {one._pk: one for one in ones}
    for id_, one in by_id.items():
        setattr(one, key.backref, lists.setdefault(id_, []))
    for other in many:
        id_ = other.__data__[key.name]
        if id_ in by_id:
            other.__rel__[key.name] = by_id[id_]
            lists[id_].append(other)
    return ones


class Reading(Statement):
    """A statement whose rows are those of a model, and begin with its columns."""

    def __init__(self, model: Any, query: Any, *, needs_session: bool = True, has_one_plan: bool = False) -> None:
        super().__init__(model, query, needs_session=needs_session, has_one_plan=has_one_plan)
        self.read = reader_of(model)

    def instances(self, values: Values = NOTHING) -> list[Any]:
        """What the statement gives, as instances."""
        rows, is_in_utc = self.fetch(values)
        return self.read(rows, is_in_utc=is_in_utc)
