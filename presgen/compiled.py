"""Statements that Peewee writes once: a query is compiled for a database, and its values are bound whenever it runs.

Writing a query's SQL costs several times what PostgreSQL needs to run it. So the statements that an application runs
all day are functions of what shapes their text, and name their values by Parameters:

    @compiled
    def _by_key(model):
        return Statement(model, model.select().where(model.id == Parameter("key")))

    _by_key(User).run({"key": 7})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

import peewee as pw

from .context import require_database, session
from .prepared import Preparable

Values = Mapping[str, Any]
Built = TypeVar("Built")

NOW: Final = "now"
"""The name of the moment at which a statement runs, among its values."""
NOTHING: Final[Values] = {}
_SHAPE_STATEMENTS: Final = ("select", "alive", "filled", "timed", "touched", "derived", "server_time")
_LIBRARIES: Final = ("presgen", "peewee", "playhouse")
SHAPES_MAX: Final = 500
"""How many statements of one kind are kept for a database, before they are written anew."""


class _Slot:
    """What stands among a compiled statement's parameters for a value that comes later."""

    def __init__(self, make: Callable[[Values], Any], *, tells_time: bool = False) -> None:
        self.make, self.tells_time = make, tells_time


class Moment(pw.ColumnBase):
    """A time by this process's clock, made of `NOW`, which all of a compiled statement shares whenever it runs."""

    def __init__(self, make: Callable[[Values], Any]) -> None:
        self.make = make

    @cached_property
    def _made(self) -> Any:
        return self.make({NOW: datetime.now(timezone.utc)})

    def __sql__(self, ctx: Any) -> Any:
        return ctx.value(_Slot(self.make, tells_time=True) if ctx.state.is_compiled else self._made, converter=False)


class Parameter(pw.ColumnBase):
    """A value that a compiled statement is run with, by its name.

    Without a converter of its own it is converted as Peewee converts a value in its place: by the field with which it
    is compared.
    """

    def __init__(self, name: str, convert: Callable[[Any], Any] | None = None) -> None:
        self.name, self._convert = name, convert

    def value(self, values: Values) -> Any:
        """The value among those that the statement is run with."""
        return values[self.name]

    def __sql__(self, ctx: Any) -> Any:
        convert = self._convert or ctx.state.converter
        make = self.value if convert is None else lambda values: convert(self.value(values))
        return ctx.value(_Slot(make), converter=False)


class Statement:
    """A query's SQL for the database that its model is bound to, and what makes its parameters.

    One that `has_one_plan`, whatever its values, may be prepared by connections.
    """

    def __init__(self, model: Any, query: Any, *, needs_session: bool = True, has_one_plan: bool = False) -> None:
        self.model, self._needs_session = model, needs_session
        context = require_database(model._meta.database).get_sql_context(is_compiled=True)
        sql, parameters = context.sql(query).query()
        self._parameters: list[Any] = parameters
        slots = [(place, slot) for place, slot in enumerate(parameters) if isinstance(slot, _Slot)]
        self.sql = Preparable(sql, parameters, [place for place, _ in slots]) if has_one_plan else sql
        self._slots = [(place, slot.make) for place, slot in slots]
        self._tells_time = any(slot.tells_time for _, slot in slots)

    def parameters(self, values: Values) -> list[Any]:
        """What the statement's placeholders stand for."""
        parameters = self._parameters.copy()
        if self._tells_time:
            values = {**values, NOW: datetime.now(timezone.utc)}
        for place, make in self._slots:
            parameters[place] = make(values)
        return parameters

    def run(self, values: Values = NOTHING) -> list[Any]:
        """The rows that the statement gives, as the driver gives them.

        Where there is no session it has one of its own, unless it needs none: then it connects as Peewee's own do.
        """
        rows, _ = self.fetch(values)
        return rows

    def fetch(self, values: Values = NOTHING) -> tuple[list[Any], bool]:
        """The rows that run() gives, and whether it is certain that all their moments are in UTC."""
        database, parameters = self.model._meta.database, self.parameters(values)
        connects_itself = not self._needs_session or getattr(database, "lends_per_statement", False)
        with nullcontext() if connects_itself else session(database):
            cursor = database.execute_sql(self.sql, parameters)
            return cursor.fetchall(), getattr(cursor, "is_in_utc", False)


def _speaks_for_itself(model: Any) -> bool:
    """Whether the model's part in a statement is presgen's own: somebody else's may be another one each time."""
    methods = (getattr(model, name, None) for name in _SHAPE_STATEMENTS)
    return all(getattr(method, "__module__", "presgen").partition(".")[0] in _LIBRARIES for method in methods)


class compiled(Generic[Built]):
    """Decorates a function of a model, and of what else shapes a statement: for each database it is called once.

    What it gives is kept by its arguments, for the database that the model is bound to: they are hashable, and from a
    small set. So it must not read what may be another thing the next time, a clock, a setting, a row or who is acted
    for: what varies is a Parameter, and the time a Moment.
    """

    def __init__(self, build: Callable[..., Built]) -> None:
        self.build, self.__doc__ = build, build.__doc__
        self._built: WeakKeyDictionary[Any, dict[Any, Built]] = WeakKeyDictionary()
        self._latest: tuple[Callable[[], Any], dict[Any, Built]] = (lambda: None, {})

    def __call__(self, model: Any, *shape: Any) -> Built:
        meta = model._meta
        of_database, built = self._latest  # a look at the weak dictionary takes longer than the rest
        if meta.database is None or of_database() is not meta.database:  # the latest may be gone, and None as well
            built = self._built_for(require_database(meta.database))
        key = model, meta.schema, meta.table_name, len(meta.sorted_fields), shape
        found = built.get(key)
        if found is None:
            found = self.build(model, *shape)
            if _speaks_for_itself(model):
                if len(built) >= SHAPES_MAX:
                    built.clear()
                built[key] = found
        return found

    def _built_for(self, database: Any) -> dict[Any, Built]:
        built = self._built.setdefault(database, {})
        self._latest = ref(database), built
        return built
