"""BaseModel: every way to write a row goes through its fields' validators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import peewee as pw
from playhouse import signals

from .. import validation
from ..checked import Checked
from ..clock import server_time
from ..context import session
from ..errors import ValidationError
from .found import can_be_bound, equalities, find
from .statements import CheckedInsert, CheckedSelect
from .written import Row, insert_row, update_row


class BaseModel(signals.Model):
    """A table of presgen's; bound to a database by DatabaseManager or by `bind`."""

    class Meta:
        only_save_dirty = True
        legacy_table_names = False

    @classmethod
    def server_time(cls, *, plus_seconds: float = 0.0) -> Any:
        """The time at which the statement runs, by the clock of the database that the model is bound to."""
        seconds = validation.argument(validation.number, plus_seconds, "plus_seconds")
        seconds = validation.argument(validation.between(-1e9, 1e9), seconds, "plus_seconds")
        return server_time(cls._meta.database, plus_seconds=seconds)

    def __init__(self, *arguments: Any, **values: Any) -> None:
        if "__no_default__" not in values:  # which peewee says of rows that it reads, with whatever the query named
            for name in values:
                self.field_of(name)
        super().__init__(*arguments, **values)

    init_that_only_checks = __init__
    """What rows that are read have no need of."""

    # One row

    def save(self, force_insert: bool = False, only: Iterable[Any] | None = None) -> int:
        """Write what changed, and read back what the database filled in; gives the number of rows written.

        After the listeners of pre_save, the values are validated. Raises ValidationError before the round trip,
        ConstraintViolation after it, and DoesNotExist when the row to update is gone, which peewee would let
        pass in silence.
        """
        creating = force_insert or self._pk is None
        signals.pre_save.send(self, created=creating)
        fields = (
            self._meta.sorted_fields
            if only is None
            else [self.field_of(field) for field in validation.argument(validation.several, only, "only")]
        )
        self.validate(fields, creating=creating)
        row = self._row_to_write(fields, creating=creating)
        if not row and not creating:
            return 0
        model = type(self)
        written = insert_row(model, row) if creating else update_row(model, row, self.update_condition())
        if written is None:
            raise self.why_not_updated()
        self.take_over(written)
        signals.post_save.send(self, created=creating)
        return 1

    def validate(self, fields: Iterable[Any], *, creating: bool) -> None:
        """Check what is about to be written, and put the values into normal form; raises ValidationError."""
        self._populate_unsaved_relations(self.__data__)
        for field in fields:
            value = self.__data__.get(field.name)
            if creating and value is None and field.is_filled_by_database:
                continue
            if field.name in self._dirty or (creating and field.is_required):
                self.__data__[field.name] = field.clean(value)

    def update_condition(self) -> Row:
        """The stored values under which save() updates the row."""
        return {self._meta.primary_key: self._pk}

    def why_not_updated(self) -> Exception:
        """The error for an update that found no row."""
        error: Exception = self.DoesNotExist(
            f"{type(self).__name__} {self._pk} is not in the database; use create() or force_insert=True"
        )
        return error

    @classmethod
    def derived(cls, row: Row, *, creating: bool) -> Row:
        """The row with what follows from its values, any of which may be a Parameter."""
        return cls.timed(row) if creating else cls.touched(row)

    def take_over(self, row: Mapping[Any, Any]) -> None:
        """Let the instance show a row that has been written."""
        for field, value in row.items():
            self.__data__[field.name] = value
            self._dirty.discard(field.name)

    @classmethod
    def filled(cls, row: Row) -> Row:
        """A new row with the defaults of the fields that it leaves out."""
        left = {field: default for field, default in cls._meta.defaults.items() if field not in row}
        return {**{field: default() if callable(default) else default for field, default in left.items()}, **row}

    @classmethod
    def timed(cls, row: Row) -> Row:
        """A new row with the moments that are left to the database's clock."""
        left = [field for field in cls._meta.sorted_fields if field.is_filled_by_database and not field.primary_key]
        return {**{field: cls.server_time() for field in left if row.get(field) is None}, **row}

    @classmethod
    def touched(cls, row: Row) -> Row:
        """The row with its new `updated_at`; a trigger does the same for other programs."""
        updated_at = cls._meta.fields.get("updated_at")
        return row if updated_at is None or updated_at in row else {**row, updated_at: cls.server_time()}

    def _row_to_write(self, fields: Iterable[Any], *, creating: bool) -> Row:
        values = self.__data__
        if creating:
            return self.filled({field: values[field.name] for field in fields if values.get(field.name) is not None})
        return {field: values[field.name] for field in fields if field.name in self._dirty and not field.primary_key}

    @classmethod
    def select(cls, *fields: Any) -> Any:
        return CheckedSelect(cls, fields or cls._meta.sorted_fields, is_default=not fields)

    @classmethod
    def get_or_create(cls, **values: Any) -> Any:
        defaults = validation.argument(validation.mapping, values.get("defaults", {}), "defaults")
        for name in (*defaults, *(name for name in values if name != "defaults")):
            cls.field_of(name)
        return super().get_or_create(**values)

    @classmethod
    def get(cls, *query: Any, **filters: Any) -> Any:
        """The first row that matches; raises DoesNotExist."""
        wanted = equalities(cls, query, filters)
        if wanted is None:
            return super().get(*query, **filters)
        return find(cls, wanted)

    @classmethod
    def get_by_id(cls, pk: Any) -> Any:
        """The row with that primary key; raises DoesNotExist."""
        key, is_own = cls._meta.primary_key, cls.get.__func__ is not BaseModel.get.__func__  # type: ignore[attr-defined]
        return super().get_by_id(pk) if is_own or not can_be_bound(cls, key, pk) else find(cls, {key: pk})

    def delete_instance(self, recursive: bool = False, delete_nullable: bool = False) -> int:
        """Delete the row. The foreign keys' own rules cascade or refuse; peewee's recursion would go around them."""
        with session(self._meta.database):
            return int(super().delete_instance())

    # Many rows

    @classmethod
    def insert(cls, __data: Any = None, **values: Any) -> Any:
        if __data is not None and not isinstance(__data, Mapping):
            return cls.insert_many(__data)
        return CheckedInsert(cls, cls.timed(cls.cleaned({**(__data or {}), **values})))

    @classmethod
    def insert_many(cls, rows: Iterable[Any], fields: Any = None) -> Any:
        if isinstance(rows, pw.Query):
            return cls.insert_from(rows, fields or cls._meta.sorted_fields)
        return CheckedInsert(cls, cls._cleaned_rows(validation.argument(validation.several, rows, "rows"), fields))

    @classmethod
    def insert_from(cls, query: Any, fields: Iterable[Any]) -> Any:
        """An INSERT of what a query gives, whose values only the database sees."""
        named = [cls.field_of(field) for field in validation.argument(validation.several, fields, "fields")]
        for field in named:
            field.clean_expression(query)
        return super().insert_from(query, named)

    @classmethod
    def update(cls, __data: Any = None, **values: Any) -> Any:
        given = {} if __data is None else validation.argument(validation.mapping, __data, "row")
        row = cls.cleaned({**given, **values}, creating=False)
        if not row:
            raise ValidationError("there is nothing to update", rule="empty")
        return super().update(cls.touched(row))

    @classmethod
    def bulk_update(cls, model_list: Iterable[Any], fields: Iterable[Any], batch_size: int | None = None) -> int:
        instances = cls._instances(model_list)
        chosen = [cls.field_of(field) for field in validation.argument(validation.several, fields, "fields")]
        key = cls._meta.primary_key
        ids = [key.clean(instance._pk) for instance in instances]
        for instance in instances:
            for field in chosen:
                instance.__data__[field.name] = field.clean(instance.__data__.get(field.name))
        written = 0
        for batch in pw.chunked(list(zip(ids, instances, strict=True)), _batch_size(batch_size, instances)):
            row: Row = {}
            for field in chosen:
                values = [(number, _case_value(field, instance.__data__[field.name])) for number, instance in batch]
                # ELSE tells PostgreSQL the type, which it would take for text where all values are NULL or moments.
                row[field] = pw.Case(key, values, field)
            written += super().update(cls.touched(row)).where(key.in_([number for number, _ in batch])).execute()
        return written

    @classmethod
    def bulk_create(cls, model_list: Iterable[Any], batch_size: int | None = None) -> None:
        instances = cls._instances(model_list)
        super().bulk_create(instances, _batch_size(batch_size, instances))

    @classmethod
    def _instances(cls, model_list: Iterable[Any]) -> list[Any]:
        instances = list(validation.argument(validation.several, model_list, "model_list"))
        for number, instance in enumerate(instances, start=1):
            if not isinstance(instance, cls):
                raise ValidationError(
                    f"row {number} must be a {cls.__name__}, not {type(instance).__name__}", rule="type"
                )
        return instances

    @classmethod
    def _cleaned_rows(cls, rows: Iterable[Any], fields: Any) -> Iterator[Row]:
        fields = [] if fields is None else list(validation.argument(validation.several, fields, "fields"))
        named = [cls.field_of(field) for field in fields]
        named = named or [field for field in cls._meta.sorted_fields if not field.primary_key]
        columns = None
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping):
                if isinstance(row, (str, bytes)) or not isinstance(row, Sequence):
                    raise ValidationError(
                        f"row {number} must be a mapping or a sequence of values, not {type(row).__name__}", rule="type"
                    )
                if len(row) != len(named):
                    raise ValidationError(
                        f"row {number} has {len(row)} values for {len(named)} columns", rule="columns"
                    )
                row = dict(zip(named, row, strict=True))
            cleaned = cls.timed(cls.cleaned(row))
            columns = columns or {*cleaned, *cls._meta.defaults}
            late = cleaned.keys() - columns
            if late:  # peewee takes the columns from the first row, and would drop these in silence
                name = min(field.name for field in late)
                raise ValidationError(f"row {number} has {name}, which the first row lacks", field=name, rule="columns")
            yield cleaned

    @classmethod
    def cleaned(cls, row: Mapping[Any, Any], *, creating: bool = True) -> Row:
        """A row by field, its values in normal form; raises ValidationError, also for a field that is missing."""
        cleaned: Row = {}
        for key, value in row.items():
            field = cls.field_of(key)
            if value is not None or not (creating and field.is_filled_by_database):
                cleaned[field] = field.clean(value)
        for field in cls._meta.sorted_fields if creating else ():
            if field.is_required and field not in cleaned:
                field.clean(None)
        return cleaned

    @classmethod
    def field_of(cls, key: Any) -> Any:
        """The field that a name, a column's name or the field itself stands for; raises ValidationError."""
        field = cls._meta.combined.get(key) if isinstance(key, str) else key
        if not isinstance(field, Checked) or cls._meta.fields.get(field.name) is not field:
            raise ValidationError(f"{cls.__name__} has no field {validation.shown(key)}", rule="unknown")
        return field


def _batch_size(given: int | None, instances: Sequence[Any]) -> int:
    """How many rows go into a statement; never more than there are, for peewee makes room for so many."""
    count = max(1, len(instances))
    return count if given is None else min(count, validation.argument(validation.at_least(1), given, "batch_size"))


def _case_value(field: Any, value: Any) -> Any:
    return value if isinstance(value, pw.Node) else field.case_value(value)
