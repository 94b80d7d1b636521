"""Turns what a driver raises into presgen's errors, without the values that drivers quote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import peewee as pw

from .errors import (
    ConstraintViolation,
    DatabaseBusy,
    DatabaseUnavailable,
    InvalidTransition,
    PresgenError,
    ReadOnlyServer,
    StatementTimeout,
)

# Serialization failure, deadlock, lock not available.
_BUSY: Final = frozenset({"40001", "40P01", "55P03"})
_BUSY_SQLITE: Final = ("database is locked", "database table is locked")
_QUERY_CANCELED: Final = "57014"
# Shut down, crashed, starting up, idle too long (in a transaction, in a session).
_CONNECTION_ENDED: Final = frozenset({"57P01", "57P02", "57P03", "25P03", "57P05"})

CONNECTION_LOST: Final = "the connection to the database was lost; nothing uncommitted was kept"
_READ_ONLY: Final = "25006"
_TRANSITION: Final = "valid_status_transition"
_SQLITE_RULE: Final = re.compile(r"^(?P<kind>[A-Z ]+) constraint failed(?:: (?P<name>.+))?$")

_GOES_ON: Final = ("DETAIL:", "HINT:", "Either provide the file")
# What libpq says when a connection cannot be made, and what to do about it.
_REMEDIES: Final = (
    ("password authentication failed", "check the user and the password (POSTGRES_PASSWORD or DATABASE_URL)"),
    ("no password supplied", "set POSTGRES_PASSWORD, or put the password into DATABASE_URL"),
    ("could not translate host name", "check the host (POSTGRES_HOST or DATABASE_URL)"),
    ("refused", "is the server running, and does it listen on that host and port?"),
    ("No such file or directory", "is the server running, and is the socket's folder right?"),
    ("timeout", "is the host right and reachable?"),
    ("too many clients", "lower DATABASE_POOL_SIZE, or raise max_connections on the server"),
    ("no more connections allowed", "lower DATABASE_POOL_SIZE, or raise PgBouncer's max_client_conn"),
    ("does not support SSL", "the server has no TLS: unset DATABASE_SSL, or turn TLS on at the server"),
    ("certificate", "check DATABASE_SSLROOTCERT and the host name in the server's certificate"),
    ("no encryption", "set DATABASE_SSL=true, the server wants TLS"),
    ("unsupported startup parameter", "that is PgBouncer: set DATABASE_PGBOUNCER=true"),
    ("does not exist", "create it, or check POSTGRES_DB and POSTGRES_USER"),
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise presgen's error in place of the driver's, wherever presgen has one that says more."""
    try:
        yield
    except PresgenError:
        raise
    except (pw.DatabaseError, pw.InterfaceError) as error:
        meaning = _meaning(error)
        if meaning is None:
            raise
        raise meaning from None


def connect_failure(error: Exception, where: str) -> DatabaseUnavailable:
    """The error for a connection to `where` (a safe URL) that could not be made."""
    said = str(error).strip() or type(error).__name__
    # The indented lines are libpq's hints; the remedies are ours.
    facts = [line.strip() for line in said.splitlines() if not line.startswith("\t")]
    # Of several addresses the last one counts; what it says may go on with details and advice.
    facts = [fact for fact in facts if not fact.startswith(_GOES_ON)] or facts
    reason = facts[-1].removeprefix("FATAL:").strip()
    remedy = next((remedy for sign, remedy in _REMEDIES if sign in said), "is the server up?")
    return DatabaseUnavailable(f"cannot connect to {where}: {reason}; {remedy}")


def is_lost(connection: Any) -> bool:
    """Whether the driver has noticed that the connection is gone."""
    return bool(getattr(connection, "closed", False))


def sqlstate(error: Exception) -> str | None:
    """PostgreSQL's five-character code of an error that peewee raised, None where there is none."""
    code: str | None = getattr(_driver_error(error), "pgcode", None)
    return code


def _meaning(error: Exception) -> PresgenError | None:
    cause = _driver_error(error)
    if isinstance(error, pw.IntegrityError):
        return _broken_rule(cause)
    state, text = getattr(cause, "pgcode", None), str(cause)
    if state in _BUSY:
        return DatabaseBusy(f"{cause.diag.message_primary}: nothing of the transaction was kept, try it again")
    if text.startswith(_BUSY_SQLITE):
        return DatabaseBusy(f"{text}: another program is writing to the file, try again when it is done")
    if state == _READ_ONLY:
        return ReadOnlyServer(f"{cause.diag.message_primary}: this server only reads, use the primary")
    if state == _QUERY_CANCELED:
        return StatementTimeout(
            f"{cause.diag.message_primary}: raise DATABASE_STATEMENT_TIMEOUT, or try again when the server is less busy"
        )
    # A connection that another thread breaks off is a bare DatabaseError.
    is_about_connection = isinstance(error, (pw.OperationalError, pw.InterfaceError)) or type(error) is pw.DatabaseError
    has_ended = state is None or state.startswith("08") or state in _CONNECTION_ENDED
    if is_about_connection and has_ended and hasattr(cause, "pgcode"):
        return DatabaseUnavailable(CONNECTION_LOST)
    return None


def _driver_error(error: Exception) -> Any:
    return getattr(error, "orig", error)


def _broken_rule(cause: Any) -> PresgenError:
    diagnosis = getattr(cause, "diag", None)
    if diagnosis is not None:
        name, text = diagnosis.constraint_name, diagnosis.message_primary or "a constraint is violated"
    else:
        text = str(cause)
        match = _SQLITE_RULE.match(text)
        name = match["name"] if match and match["kind"] == "CHECK" else None
    if _TRANSITION in (name, text):
        return InvalidTransition(text) if diagnosis is not None else InvalidTransition()
    return ConstraintViolation(text, constraint=name)
