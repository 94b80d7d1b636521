"""The SELECTs and INSERTs of the models, which refuse what Peewee would take in silence."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import peewee as pw

from .. import validation
from ..encrypted import Digest, Sealable, refuse_order


class CheckedSelect(pw.ModelSelect):
    """A SELECT whose filters are named for fields, and whose DoesNotExist shows no values."""

    model: Any
    _order_by: Any
    _group_by: Any

    def get(self, database: Any = None) -> Any:
        """The first row; raises DoesNotExist, with a message of its own: peewee's is the statement and its values."""
        with suppress(self.model.DoesNotExist):
            return super().get(database)
        raise self.model.DoesNotExist(f"there is no such {self.model.__name__}")

    def filter(self, *conditions: Any, **filters: Any) -> Any:
        """The rows that match; refuses names that begin with no field and no relation, of which peewee takes any."""
        relations = {field.backref for field in self.model._meta.backrefs}
        for name in filters:
            first = name.partition("__")[0]
            if first not in relations:
                self.model.field_of(first)
        for name in [name for name, value in filters.items() if value is None]:
            if name.rpartition("__")[2] not in pw.DJANGO_MAP:  # peewee would make an IS that the field knows nothing of
                del filters[name]
                filters[f"{name}__is_null"] = True
        return super().filter(*conditions, **filters)

    def __sql__(self, ctx: Any) -> Any:
        refuse_order((*(self._order_by or ()), *(self._group_by or ())))
        return super().__sql__(ctx)  # type: ignore[no-untyped-call]


class CheckedInsert(pw.ModelInsert):
    """An INSERT whose ON CONFLICT … UPDATE goes through the validators as well."""

    def on_conflict(self, action: str | None = None, update: Any = None, **options: Any) -> Any:
        if update is not None:
            row = validation.argument(validation.mapping, update, "update")
            update = self.model.touched(self.model.cleaned(row, creating=False))
        targets = options.get("conflict_target")
        if targets is not None:
            targets = targets if isinstance(targets, (list, tuple)) else [targets]
            options["conflict_target"] = [self._found_by(target) for target in targets]
        given = {"action": action, "update": update, **options}
        return super().on_conflict(**{name: value for name, value in given.items() if value is not None})

    def _found_by(self, target: Any) -> Any:
        """What the unique index of a conflict's target is on."""
        field = self.model._meta.combined.get(target) if isinstance(target, str) else target
        return Digest(field) if isinstance(field, Sealable) and field.seal(to_find=True) else target
