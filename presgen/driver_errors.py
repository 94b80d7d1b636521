"""Turns what a driver raises into presgen's errors, without the values that drivers quote."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import peewee as pw
from psycopg2.errorcodes import lookup

from .errors import (
    ConstraintViolation,
    DatabaseBusy,
    DatabaseUnavailable,
    DiskFull,
    InvalidTransition,
    PresgenError,
    ReadOnlyServer,
    StatementFailed,
    StatementInvalid,
    StatementTimeout,
    TransactionAborted,
    ValidationError,
    ValueRefused,
)

Result = TypeVar("Result")

# Serialization failure, deadlock, lock not available.
_BUSY: Final = frozenset({"40001", "40P01", "55P03"})
_BUSY_SQLITE: Final = ("database is locked", "database table is locked")
_QUERY_CANCELED: Final = "57014"
# Shut down, crashed, starting up, idle too long (in a transaction, in a session).
_CONNECTION_ENDED: Final = frozenset({"57P01", "57P02", "57P03", "25P03", "57P05"})

CONNECTION_LOST: Final = "the connection to the database was lost; nothing uncommitted was kept"
_READ_ONLY: Final = "25006"
_TRANSACTION_ABORTED: Final = "25P02"
_DISK_FULL: Final = "53100"
_TOO_MANY_CLIENTS: Final = "53300"
# Their primary messages name things of the schema and the server: not supported, transaction state, names and types,
# resources, limits, object state, intervention, system. All others may quote a value, and so do errors of syntax.
_CLASSES_THAT_QUOTE_NOTHING: Final = frozenset({"", "0A", "25", "42", "53", "54", "55", "57", "58"})
_SYNTAX: Final = frozenset({"42601", "42602"})
_SQLITE_QUOTES_NOTHING: Final = (
    "no such ",
    "ambiguous column",
    "table ",
    "row value misused",
    "wrong number of ",
    "too many ",
)
_SQLITE_VALUES: Final = frozenset({"integer overflow", "malformed JSON"})
_CANNOT_BIND: Final = ("can't adapt", "Error binding parameter")
_UNSENDABLE: Final = (
    "a value in the statement is none that a database can hold: "
    "it takes no NUL character, no lone surrogate, no whole number of more than 64 bits and no objects of Python's"
)
_MIGRATE: Final = "is the schema up to date? run: presgen migrate"
# What a message or an SQLSTATE begins with, and what to do about it.
_STATEMENT_REMEDIES: Final = (
    (("new row violates row-level security",), "write it inside manager.acting_as(…) for the user whose row it is"),
    (("42P01", "42703", "no such table", "no such column"), _MIGRATE),
    (("42501",), "grant the right to that role, or use another one"),
    (("attempt to write a readonly",), "check the permissions of the file and its folder"),
)
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


def translated(call: Callable[..., Result], *arguments: Any) -> Result:
    """The call's result; an error of the driver becomes presgen's, which quotes no values."""
    try:
        return call(*arguments)
    except PresgenError:
        raise
    except (pw.DatabaseError, pw.InterfaceError, ValueError, OverflowError) as error:
        refusal = _meaning(error)
        if isinstance(refusal, PresgenError):
            refusal.sqlstate = getattr(getattr(error, "orig", None), "pgcode", None)
    # Out here, or the driver's error would be its context, with all the values that it quotes.
    try:
        raise refusal
    finally:
        del refusal  # it refers to this frame


def require_sendable(values: Iterable[Any]) -> None:
    """Raise ValidationError for parameters that only one of the backends would take, and store or find otherwise."""
    for value in values:
        if isinstance(value, str):
            is_sendable = "\0" not in value
        else:
            is_sendable = not isinstance(value, int) or -(1 << 63) <= value < 1 << 63
        if not is_sendable:
            raise ValidationError(_UNSENDABLE, rule="unsendable")


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


def _meaning(error: Exception) -> Exception:
    if isinstance(error, (ValueError, OverflowError)):  # while the driver wrote the parameters down
        if "format" in str(error):
            return StatementInvalid("the database refused the statement: it has a % that is not written as %%")
        return ValidationError(_UNSENDABLE, rule="unsendable")
    cause = getattr(error, "orig", None)
    if cause is None:  # peewee's own, about how it is used
        return error
    if isinstance(error, pw.IntegrityError) and _sqlite_code(cause) != sqlite3.SQLITE_MISMATCH:
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
    if state == _TOO_MANY_CLIENTS:
        return DatabaseUnavailable(f"{cause.diag.message_primary}: try again, or raise max_connections on the server")
    # A connection that another thread breaks off is a bare DatabaseError.
    is_about_connection = isinstance(error, (pw.OperationalError, pw.InterfaceError)) or type(error) is pw.DatabaseError
    has_ended = state is None or state.startswith("08") or state in _CONNECTION_ENDED
    if is_about_connection and has_ended and hasattr(cause, "pgcode"):
        return DatabaseUnavailable(CONNECTION_LOST)
    if state is None and text.startswith(_CANNOT_BIND):
        return ValidationError(_UNSENDABLE, rule="unsendable")
    return _refused_by_sqlite(cause) if isinstance(cause, sqlite3.Error) else _refused_by_postgresql(cause)


def _refused_by_postgresql(cause: Any) -> PresgenError:
    state: str = cause.pgcode or ""
    said: str = (cause.diag.message_primary if state else str(cause)) or "it did not say why"
    if state == _DISK_FULL:
        return DiskFull(f"{said}: free space on the server's disk")
    if state == _TRANSACTION_ABORTED:
        return TransactionAborted()
    if state[:2] not in _CLASSES_THAT_QUOTE_NOTHING or state in _SYNTAX:
        said = f"{_name_of(state)} (SQLSTATE {state})"
    if state.startswith("22"):
        return ValueRefused(f"the database refused a value: {said}")
    if state[:2] in ("42", ""):
        return StatementInvalid(_with_remedy(f"the database refused the statement: {said}", said, state))
    return StatementFailed(f"the database could not execute the statement: {said}")


def _name_of(state: str) -> str:
    try:
        name: str = lookup(state)
    except KeyError:  # somebody's own, raised by a trigger
        return "an error of its own"
    return name.lower().replace("_", " ")


def _refused_by_sqlite(cause: sqlite3.Error) -> StatementFailed:
    code, said = _sqlite_code(cause), str(cause)
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"{said}: free space on the disk")
    if code in (sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG) or said in _SQLITE_VALUES:
        return ValueRefused(f"the database refused a value: {said}")
    if code == sqlite3.SQLITE_ERROR:  # the one code whose texts quote pieces of the statement
        said = said if said.startswith(_SQLITE_QUOTES_NOTHING) else "syntax error"
        return StatementInvalid(_with_remedy(f"the database refused the statement: {said}", said))
    if code is None and isinstance(cause, sqlite3.ProgrammingError):  # Python's own, about the call
        return StatementInvalid(f"the database refused the statement: {said}")
    if code is None:
        said = "a stored text cannot be decoded" if said.startswith("Could not decode") else "it did not say why"
    return StatementFailed(_with_remedy(f"the database could not execute the statement: {said}", said))


def _sqlite_code(cause: Any) -> int | None:
    code: int | None = getattr(cause, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the rest of an extended code tells details


def _with_remedy(message: str, *signs: str) -> str:
    known = (remedy for starts, remedy in _STATEMENT_REMEDIES if any(sign.startswith(starts) for sign in signs))
    remedy = next(known, None)
    return message if remedy is None else f"{message}; {remedy}"


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
