"""BaseModel: every way to write a row goes through its fields' validators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import peewee as pw
from playhouse import signals

from ..clock import server_time
from ..errors import ValidationError
from ..fields import Checked

Row = dict[Any, Any]
"""Values by field."""


class BaseModel(signals.Model):
    """A table of presgen's; bound to a database by DatabaseManager or by `bind`."""

    class Meta:
        only_save_dirty = True
        legacy_table_names = False

    def describe(self) -> str:
        """What the row is called in messages: its class, id and name."""
        name = f", name={self.name!r}" if "name" in self._meta.fields else ""
        return f"{type(self).__name__}(id={self._pk}{name})"

    @classmethod
    def server_time(cls, *, plus_seconds: float = 0.0) -> Any:
        """The time at which the statement runs, by the clock of the database that the model is bound to."""
        return server_time(cls._meta.database, plus_seconds=plus_seconds)

    # One row

    def save(self, force_insert: bool = False, only: Iterable[Any] | None = None) -> int:
        """Write what changed, and read back what the database filled in; gives the number of rows written.

        Raises ValidationError before the round trip, ConstraintViolation after it, and DoesNotExist when the
        row to update is gone, which peewee would let pass in silence.
        """
        creating = force_insert or self._pk is None
        signals.pre_save.send(self, created=creating)
        row = self._row_to_write(creating=creating, only=only)
        if not row and not creating:
            return 0
        row = self.derived(row, creating=creating)
        read_back = [field for field in self._meta.sorted_fields if self._is_filled_by_database(field, row, creating)]
        query: Any = pw.ModelInsert(type(self), row)
        if not creating:
            query = pw.ModelUpdate(type(self), row).where(self._pk_expr())
        written = list(query.returning(*read_back).tuples().execute())
        if not written:
            raise self.DoesNotExist(f"{self.describe()} is not in the database; use create() or force_insert=True")
        self.take_over({**row, **dict(zip(read_back, written[0], strict=True))})
        signals.post_save.send(self, created=creating)
        return 1

    def validate(self, *, creating: bool) -> None:
        """Check what is about to be written, and put the values into normal form; raises ValidationError."""
        self._populate_unsaved_relations(self.__data__)
        for field in self._meta.sorted_fields:
            value = self.__data__.get(field.name)
            if creating and value is None and field.is_filled_by_database:
                continue
            if field.name in self._dirty or (creating and field.is_required):
                self.__data__[field.name] = field.clean(value)

    def derived(self, row: Row, *, creating: bool) -> Row:
        """The row with what follows from its values."""
        return row if creating else self.touched(row)

    def take_over(self, row: Mapping[Any, Any]) -> None:
        """Let the instance show a row that has been written."""
        for field, value in row.items():
            self.__data__[field.name] = value
            self._dirty.discard(field.name)

    @classmethod
    def touched(cls, row: Row) -> Row:
        """The row with its new `updated_at`; a trigger does the same for other programs."""
        updated_at = cls._meta.fields.get("updated_at")
        return row if updated_at is None or updated_at in row else {**row, updated_at: cls.server_time()}

    def _row_to_write(self, *, creating: bool, only: Iterable[Any] | None) -> Row:
        fields = self._meta.sorted_fields
        if only is not None:
            chosen = {self.field_of(field) for field in only}
            fields = [field for field in fields if field in chosen]
        values = self.__data__
        if creating:
            return {field: values[field.name] for field in fields if values.get(field.name) is not None}
        return {field: values[field.name] for field in fields if field.name in self._dirty and not field.primary_key}

    @staticmethod
    def _is_filled_by_database(field: Any, row: Row, creating: bool) -> bool:
        if field in row:
            return isinstance(row[field], pw.Node)
        return creating or field.primary_key

    def delete_instance(self, recursive: bool = False, delete_nullable: bool = False) -> int:
        """Delete the row. The foreign keys' own rules cascade or refuse; peewee's recursion would go around them."""
        return int(super().delete_instance())

    # Many rows

    @classmethod
    def insert(cls, __data: Any = None, **values: Any) -> Any:
        if __data is not None and not isinstance(__data, Mapping):
            return cls.insert_many(__data)
        return super().insert(cls.cleaned({**(__data or {}), **values}))

    @classmethod
    def insert_many(cls, rows: Iterable[Any], fields: Any = None) -> Any:
        if isinstance(rows, pw.Node):
            return super().insert_many(rows, fields)
        return super().insert_many(cls._cleaned_rows(rows, fields))

    @classmethod
    def update(cls, __data: Any = None, **values: Any) -> Any:
        return super().update(cls.touched(cls.cleaned({**(__data or {}), **values}, creating=False)))

    @classmethod
    def bulk_update(cls, model_list: Iterable[Any], fields: Iterable[Any], batch_size: int | None = None) -> int:
        instances = list(model_list)
        chosen = [cls.field_of(field) for field in fields]
        for instance in instances:
            for field in chosen:
                instance.__data__[field.name] = field.clean(instance.__data__.get(field.name))
        return int(super().bulk_update(instances, chosen, batch_size))

    @classmethod
    def _cleaned_rows(cls, rows: Iterable[Any], fields: Any) -> Iterator[Row]:
        named = [cls.field_of(field) for field in fields or cls._meta.sorted_fields if fields or not field.primary_key]
        for row in rows:
            if not isinstance(row, Mapping):
                if len(row) != len(named):
                    raise ValidationError(f"a row has {len(row)} values for {len(named)} columns", rule="columns")
                row = dict(zip(named, row, strict=True))
            yield cls.cleaned(row)

    @classmethod
    def cleaned(cls, row: Mapping[Any, Any], *, creating: bool = True) -> Row:
        """A row by field, its values in normal form; raises ValidationError, also for a field that is missing."""
        cleaned: Row = {}
        for key, value in row.items():
            field = cls.field_of(key)
            if value is None and creating and field.is_filled_by_database:
                if field.primary_key:
                    continue
                value = cls.server_time()
            cleaned[field] = field.clean(value)
        if creating:
            for field in cls._meta.sorted_fields:
                if field.is_required and field not in cleaned:
                    field.clean(None)
        return cleaned

    @classmethod
    def field_of(cls, key: Any) -> Any:
        """The field that a name, a column's name or the field itself stands for; raises ValidationError."""
        field = cls._meta.combined.get(key) if isinstance(key, str) else key
        if not isinstance(field, Checked):
            raise ValidationError(f"{cls.__name__} has no field {key!r}", rule="unknown")
        return field


@signals.pre_save(sender=BaseModel)
def validate_before_save(_sender: Any, instance: BaseModel, created: bool) -> None:
    """Give a broken rule a readable error before the round trip."""
    instance.validate(creating=created)
