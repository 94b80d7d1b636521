"""Signing up and logging in: what happens before there is a user to act for."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any, Final

from ...clock import is_sqlite
from ...errors import ConfigurationError, StatementInvalid, ValidationError
from ...manager import DatabaseManager
from ...models import User

_NEW_ID: Final = "SELECT nextval(pg_get_serial_sequence('users', 'id'))"
# Of several keys one at most is somebody's: they are digests of one address.
_FIND: Final = "SELECT max(presgen_find_user(key)) FROM unnest(%s) AS key"
_UNDEFINED_FUNCTION: Final = "42883"


def sign_up(manager: DatabaseManager, **columns: Any) -> User:
    """Create a user, also as the app's role, which may create none but the one that it acts for.

    `columns` are those of User without its id. Raises AlreadyActing inside a block that acts for somebody, and what
    User.create() raises; that an e-mail is taken, ConstraintViolation tells.
    """
    if "id" in columns:
        raise ValidationError("id comes from the database: sign up without it", field="id", rule="unknown")
    manager.require_binding()
    if is_sqlite(manager.database):
        return User.create(**columns)  # type: ignore[no-any-return]
    with manager.session() as database:
        (new_id,) = database.execute_sql(_NEW_ID).fetchone()
        with manager.acting_as(new_id):
            return User.create(**columns, id=new_id)  # type: ignore[no-any-return]


def find_user(manager: DatabaseManager, email: str) -> int | None:
    """The id of the user who has the e-mail address, also for the app's role, and nothing else of them.

    Raises ValidationError for what is no text, and ConfigurationError without the feature, but on SQLite.
    """
    manager.require_binding()
    keys = User.email.lookup_keys(email)
    if is_sqlite(manager.database):
        user = User.select(User.id).where(User.email == email).first()
        return None if user is None else int(user.id)
    try:
        (user_id,) = manager.database.execute_sql(_FIND, (keys,)).fetchone()
    except StatementInvalid as error:
        if error.sqlstate != _UNDEFINED_FUNCTION:
            raise
    else:
        return None if user_id is None else int(user_id)
    raise ConfigurationError("the database has no tenancy; run: presgen install tenancy")


def sign_in(manager: DatabaseManager, email: str, password: str) -> User | None:
    """The active user with that address and password, as User.authenticate() gives it, also for the app's role.

    None takes the same work. Raises ConfigurationError without the feature, but on SQLite.
    """
    user_id = None
    with suppress(ValidationError):  # what is no address is nobody's
        user_id = find_user(manager, User.email.clean_value(email))
    with nullcontext() if user_id is None else manager.acting_as(user_id):  # a statement in either case
        return User.verified(User.get_or_none(User.id == (user_id or 0)), password)
