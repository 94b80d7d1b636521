"""User: who owns voices and jobs."""

from __future__ import annotations

from typing import Any

import peewee as pw

from .. import passwords, validation
from ..fields import EmailField, FlagField, IdField, MomentField, VarcharField
from .base import BaseModel


class User(BaseModel):
    """A person. Deleting one deletes their voice clones and jobs."""

    id = IdField()
    name = VarcharField(max_length=255)
    email = EmailField(max_length=255, null=True, rules=[validation.email])
    password_hash = VarcharField(max_length=255, null=True)
    is_active = FlagField(default=True)
    created_at = MomentField(now=True)
    updated_at = MomentField(now=True)

    class Meta:
        table_name = "users"
        constraints = [
            pw.Check("length(trim(name)) > 0 AND length(name) <= 255", name="valid_user_name"),
            pw.Check("length(replace(email, '@', '')) < length(email) AND email = lower(email)", name="valid_email"),
        ]

    def __repr__(self) -> str:
        return f"<User(id={self._pk}, name={self.name!r}, email={self.email!r})>"

    @classmethod
    def alive(cls) -> Any:
        """Select the users that are not soft-deleted."""
        return cls.select().where(cls.is_active)

    def set_password(self, password: str) -> None:
        """Store the password's argon2 hash on the instance; `save()` writes it.

        Raises ValidationError for an empty or over-long password, MissingExtra without `presgen[passwords]`.
        """
        self.password_hash = passwords.hash_password(password)

    def check_password(self, password: str) -> bool:
        """Whether it is the user's password. A hash of an older kind is replaced once it has matched."""
        if not self.password_hash or not passwords.verify_password(self.password_hash, password):
            return False
        if passwords.needs_rehash(self.password_hash):
            self.set_password(password)
            if self._pk is not None:
                self.save(only=[User.password_hash])
        return True


User.add_index(User.index(User.name, name="idx_users_name"))
User.add_index(User.index(User.email, unique=True, where=User.email.is_null(False), name="idx_users_email"))
