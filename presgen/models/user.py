"""User: who owns voices and jobs."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import peewee as pw

from .. import passwords, validation
from ..context import session
from ..errors import PresgenError, ValidationError
from ..fields import EmailField, FlagField, IdField, MomentField, VarcharField
from .base import BaseModel
from .chosen import update_chosen

logger = logging.getLogger("database")


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

    @classmethod
    def owned_by(cls, user: User | int) -> Any:
        """Select the row of a user, given as row or id; raises ValidationError for None and for an unsaved row."""
        return cls.select().where(cls.id == cls.id.clean_value(user._pk if isinstance(user, User) else user))

    def set_password(self, password: str) -> None:
        """Store the password's argon2 hash on the instance; `save()` writes it.

        Raises ValidationError for an empty or over-long password, MissingExtra without `presgen[passwords]`.
        """
        self.password_hash = passwords.hash_password(password)

    def check_password(self, password: str) -> bool:
        """Whether it is the user's password. A hash of an older kind or cost is replaced once it has matched."""
        if not self.password_hash:
            return False
        matches, newer = passwords.verify_and_update(self.password_hash, password)
        if newer is not None:
            self._replace_hash(newer)
        return matches

    def _replace_hash(self, newer: str) -> None:
        """Store a better hash of the same password, unless another password was set meanwhile.

        The password is right whatever becomes of it: a role or a server that only reads, and a row that somebody
        else has locked, must not keep people out.
        """
        model = type(self)
        if self._pk is None or "password_hash" in self._dirty:
            self.password_hash = newer
            return
        unchanged = model.select(model.id).where(model.id == self._pk, model.password_hash == self.password_hash)
        update = update_chosen(model, unchanged, {model.password_hash: newer})
        try:
            with session(self._meta.database) as database, database.atomic():
                stored = next(iter(update.returning(model.updated_at).tuples().execute()), None)
        except PresgenError as error:
            logger.warning("The password hash of user %s stays an older one: %s", self._pk, error)
            return
        if stored is not None:
            self.take_over({model.password_hash: newer, model.updated_at: stored[0]})

    @classmethod
    def authenticate(cls, email: str, password: str) -> User | None:
        """The active user with that address and password, or None, which takes the same work.

        Raises MissingExtra without `presgen[passwords]`.
        """
        user = None
        with suppress(ValidationError):  # what is no address is nobody's
            user = cls.get_or_none(cls.email == cls.email.clean_value(email))
        return cls.verified(user, password)

    @classmethod
    def verified(cls, user: User | None, password: str) -> User | None:
        """The user, if there is one, who is active and whose password it is; for a caller who has looked it up."""
        if user is None or not user.is_active or not user.password_hash:
            passwords.verify_in_vain(password)
            return None
        return user if user.check_password(password) else None


User.add_index(User.index(User.name, name="idx_users_name"))
User.add_index(User.index(User.email, unique=True, where=User.email.is_null(False), name="idx_users_email"))
