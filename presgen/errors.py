"""Every error that presgen raises on purpose.

Messages name the thing and the remedy; they never carry a password or the values of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peewee as pw


class PresgenError(Exception):
    """The root of presgen's errors."""

    retryable = False
    """Whether the same call may succeed when it is made again."""
    sqlstate: str | None = None
    """PostgreSQL's code of what it refused, None where it refused nothing, and on SQLite."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled exception is made anew from its arguments alone, which are not those of our constructors.
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigurationError(PresgenError):
    """A setting is missing or malformed."""


class KeyUnavailable(ConfigurationError):
    """The source of a key, a KMS for instance, has raised an error."""

    retryable = True


class MissingExtra(PresgenError, ImportError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed; run: pip install 'presgen[{extra}]'")
        self.extra = extra


class MigrationError(PresgenError):
    """The schema cannot be brought to the wanted state."""


class ArchiveError(PresgenError):
    """A file of an archive is damaged, or is not what its database knows of it."""


class BackupError(PresgenError):
    """A backup could not be made, is damaged, or cannot be restored where it was to be."""


class ValidationError(PresgenError, ValueError):
    """A value breaks a rule of its field, or of the argument that it is given as.

    `field` is the name of the field or argument, `rule` a short stable name of the broken rule; `row` says in which
    row of `enqueue_many()` it was, counted from 1, and is None elsewhere.
    """

    def __init__(
        self, message: str, *, field: str | None = None, rule: str = "invalid", row: int | None = None
    ) -> None:
        super().__init__(message)
        self.field = field
        self.rule = rule
        self.row = row


class ConstraintViolation(PresgenError, pw.IntegrityError):
    """A write breaks a rule that the database guards.

    `constraint` is the constraint's or unique index's name, None where SQLite does not tell it (foreign keys).
    """

    def __init__(self, message: str, *, constraint: str | None = None) -> None:
        super().__init__(message)
        self.constraint = constraint


class InvalidTransition(ConstraintViolation):
    """A job cannot go from the one status to the other."""

    def __init__(self, message: str = "a job cannot change its status that way; see docs/lifecycle.md") -> None:
        super().__init__(message, constraint="valid_status_transition")


class EncryptionChanged(ConstraintViolation):
    """A write came while the encryption of its column was switched on, off or to another index key; run it again."""

    retryable = True

    def __init__(self, constraint: str) -> None:
        super().__init__(
            f"the encryption of the column has changed ({constraint}): run the transaction again; raw SQL has to write "
            "what the model does",
            constraint=constraint,
        )


class DecryptionError(PresgenError):
    """An encrypted value is not what was stored: cut, changed, copied from elsewhere, or sealed with another key.

    `column` is its table and column, `key_id` the key that it names, None where it is no envelope, `row_ids` the rows
    where that is known: `presgen encryption verify` finds them.
    """

    def __init__(self, column: str, *, key_id: str | None = None, row_ids: Sequence[Any] = ()) -> None:
        with_key = "" if key_id is None else f" with the key {key_id}"
        shown = ", ".join(map(str, row_ids[:10])) + (", …" if len(row_ids) > 10 else "")
        where = f" in {'rows' if len(row_ids) > 1 else 'the row'} {shown}" if row_ids else ""
        super().__init__(
            f"a value of {column} cannot be decrypted{with_key}{where}: it was cut, changed, copied from another place "
            "or sealed with another key of that id; restore the row from a backup, or the key. Values of a column of "
            "your own that are in clear are sealed by encryption.rotate()"
        )
        self.column = column
        self.key_id = key_id
        self.row_ids = tuple(row_ids)


class LeaseLost(PresgenError):
    """The job in hand belongs to somebody else by now, or is finished; nothing was written."""


class JobCancelled(PresgenError):
    """Somebody asked for the job in hand to be cancelled."""


class HandlerStuck(PresgenError):
    """A handler did not end in time; its thread goes on until its process ends."""


class DatabaseUnavailable(PresgenError, pw.OperationalError):
    """The database cannot be reached, or the connection to it was lost."""

    retryable = True


class DatabaseBusy(PresgenError, pw.OperationalError):
    """The server gave up a statement or transaction in favour of others; nothing of it was kept."""

    retryable = True


class ReadOnlyServer(DatabaseUnavailable):
    """The server only reads: a standby, or a primary that has been told so."""


class ReadOnlyBlock(PresgenError, pw.InternalError):
    """A statement inside a reading() block writes; nothing was stored."""

    def __init__(self) -> None:
        super().__init__(
            "a reading() block only reads: write outside of it, in writing() if later reads have to see it"
        )


class AlreadyActing(PresgenError):
    """A block acts for one user, and something inside it is to act for another one."""


class StatementFailed(PresgenError, pw.DatabaseError):
    """The database could not execute a statement."""


class StatementTimeout(StatementFailed, pw.OperationalError):
    """A statement took longer than it may."""


class StatementInvalid(StatementFailed, pw.ProgrammingError):
    """A statement breaks the grammar, names what does not exist, or what its role may not touch."""


class ValueRefused(StatementFailed, pw.DataError):
    """A value in a statement does not fit its type; fields tell so before, with a ValidationError."""


class DiskFull(StatementFailed, pw.OperationalError):
    """The database's disk is full; nothing of the statement was stored."""


class TransactionAborted(PresgenError, pw.InternalError):
    """A transaction went on, or was committed, although one of its statements had failed; nothing of it was stored."""

    def __init__(self) -> None:
        super().__init__(
            "a statement of this transaction failed, so nothing of it was stored; "
            "put a statement that may fail into a `with db.transaction():` of its own"
        )


class NoActiveTransaction(PresgenError, IndexError):
    """A transaction ends in a context that has none, because it began in another one; see docs/web.md.

    An IndexError, because that is what peewee expects of an empty stack of transactions.
    """

    def __init__(self) -> None:
        super().__init__("this context has no open transaction: end it where it began, and let it begin where it works")


class PoolTimeout(PresgenError):
    """No connection of the pool became free in time."""

    retryable = True


class CommitUnknown(PresgenError):
    """The connection was lost before the server had confirmed a commit: what was written may be stored or not.

    Single writes commit by themselves, so their lost replies are lost COMMITs too. A SELECT counts as a read, whatever
    the functions do that it calls.
    """


def _rebuild(cls: type[Exception], args: tuple[Any, ...], facts: dict[str, Any]) -> Exception:
    error = cls.__new__(cls, *args)
    error.__dict__.update(facts)
    return error
