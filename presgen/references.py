"""Foreign keys: to a saved row or its id, and to rows of the same owner."""

from __future__ import annotations

from typing import Any

import peewee as pw

from . import validation
from .checked import Checked
from .context import session
from .errors import ValidationError


class _RelationAccessor(pw.ForeignKeyAccessor):
    """Loads the other row in a session, so that reading it leaves no connection behind in the thread."""

    def get_rel_instance(self, instance: Any) -> Any:
        known = instance.__rel__.get(self.name)
        if known is not None:
            return known
        load: Any = super().get_rel_instance
        if instance._meta.database is None:
            return load(instance)
        with session(instance._meta.database):
            return load(instance)


class ReferenceField(Checked, pw.ForeignKeyField):
    """A foreign key; takes a saved row of the other model or its id."""

    accessor_class = _RelationAccessor
    is_read_by_psycopg2 = True

    def check_type(self, value: Any) -> Any:
        if isinstance(value, self.rel_model):
            value = value._pk
            if value is None:
                raise ValidationError("must be saved first", rule="unsaved")
        return validation.whole_number(value, bits=64)


class SameOwnerField(ReferenceField):
    """A foreign key that carries the owner along, so that a row can only refer to its own owner's rows."""

    def foreign_key_constraint(self, explicit_name: bool = False) -> Any:
        owner = self.model._meta.fields["owner"]
        return pw.NodeList(
            (
                pw.SQL("CONSTRAINT"),
                pw.Entity(self.get_constraint_name()),
                pw.SQL("FOREIGN KEY"),
                pw.EnclosedNodeList((owner, self)),
                pw.SQL("REFERENCES"),
                self.rel_model,
                pw.EnclosedNodeList((self.rel_model._meta.fields["owner"], self.rel_field)),
                pw.SQL(f"ON DELETE {self.on_delete}"),
            )
        )
