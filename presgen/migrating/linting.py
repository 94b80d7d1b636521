"""Linting migrations: squawk's rules, and what programs of the version before can live with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import MigrationError, MissingExtra
from .concurrent import COMMENT, concurrent
from .locks import Mode, Tables
from .phases import FIRST_RELEASE, phase_of
from .recording import NotTold, Recorder

# What the migrator does anyway (timeouts; undoing what failed), and matters of taste that the specification decides.
_EXCLUDED: Final = (
    "require-lock-timeout",
    "require-statement-timeout",
    "prefer-robust-stmts",
    "prefer-text-field",
    "prefer-bigint-over-int",
)
# What breaks the programs that are still at work: for migrations that contract, when those have been replaced.
_CONTRACTING: Final = (
    "adding-required-field",
    "ban-drop-column",
    "ban-drop-not-null",
    "ban-drop-table",
    "renaming-column",
    "renaming-table",
)
_TAKES_AWAY: Final = re.compile(
    r"(DROP\s+TRIGGER|REVOKE|DELETE\s+FROM|TRUNCATE|DO|ALTER\s+TABLE\s.*\bENABLE\s+ROW\s+LEVEL\s+SECURITY)\b",
    re.IGNORECASE | re.DOTALL,
)
_REPLAYED: Final = "code that uses the database begins with `if fake: return`: pw_migrate runs it before each later one"
_STRONG: Final = (Mode.ACCESS_EXCLUSIVE, Mode.SHARE_ROW_EXCLUSIVE, Mode.SHARE)


@dataclass(frozen=True)
class Finding:
    """What may hurt when a migration is applied to a database at work."""

    migration: str
    rule: str
    """squawk's name of the rule, or one of ours.

    name-the-phase, concurrently-first, takes-away, one-lock-at-a-time, cannot-be-replayed and cannot-be-told.
    """
    statement: str
    message: str


def findings(folder: Path, known: Sequence[str]) -> list[Finding]:
    """Whatever the rules say of a folder's migrations, oldest first.

    Those of the first release are looked at as one. Raises MissingExtra without squawk.
    """
    up, down, replayer, tables = Recorder(folder), Recorder(folder), Recorder(folder), Tables()
    first: list[str] = []
    found = []
    for name in known:
        can_be_replayed = _can_be_replayed(replayer, name)
        try:
            statements = _as_far_as_told(up.statements_of, name)
            _as_far_as_told(down.statements_of, name)
        except NotTold as error:
            found.append(Finding(name, "cannot-be-told", "", str(error)))
            continue
        if name <= FIRST_RELEASE:
            first += statements
            continue
        excluded = (*_EXCLUDED, *_CONTRACTING) if phase_of(name) == "contract" else _EXCLUDED
        found += [*_phase(name, statements), *_order(name, statements), *_locks(name, statements, tables)]
        found += [] if can_be_replayed else [Finding(name, "cannot-be-replayed", "", _REPLAYED)]
        found += _squawk_all(name, statements, excluded)
    for name in reversed([name for name in known if name > FIRST_RELEASE]):
        with suppress(NotTold):  # which was told of the way up
            undoing = _as_far_as_told(down.undoing_statements_of, name)
            found += _squawk_all(f"{name}, rolled back", undoing, (*_EXCLUDED, *_CONTRACTING))
    return [*_squawk(FIRST_RELEASE, first, _EXCLUDED), *found]


def _as_far_as_told(statements: Callable[[str], list[str]], name: str) -> list[str]:
    """What a migration would execute up to the first step that needs rows, of which there are none here."""
    try:
        return statements(name)
    except NotTold as error:
        if not error.is_in_its_steps:
            raise
        return error.statements


def _phase(name: str, statements: list[str]) -> Iterator[Finding]:
    phase = phase_of(name)
    if phase is None:
        yield Finding(name, "name-the-phase", "", "its name is to be NNN_expand_… or NNN_contract_…")
    for sql in statements if phase != "contract" else ():
        if _TAKES_AWAY.match(COMMENT.sub(" ", sql).strip()):
            message = "programs of the version before may need it, or it cannot be told: for a migration that contracts"
            yield Finding(name, "takes-away", sql, message)


def _order(name: str, statements: list[str]) -> Iterator[Finding]:
    for sql in statements[_concurrent_ones(statements) :]:
        if concurrent(sql) is not None:
            message = "what is done CONCURRENTLY comes first in a migration, or in one of its own"
            yield Finding(name, "concurrently-first", sql, message)


def _locks(name: str, statements: list[str], tables: Tables) -> Iterator[Finding]:
    """What goes on, or waits for another lock, while a table is locked that others want."""
    held: set[str] = set()
    for sql in statements:
        for lock in tables.locks_of(sql):
            is_strong = lock.mode in _STRONG
            is_long = lock.mode is Mode.ROW_EXCLUSIVE
            if (is_strong and held - {lock.table}) or (is_long and held):
                message = f"meanwhile {', '.join(sorted(held))} is locked to the end: for a migration of its own"
                yield Finding(name, "one-lock-at-a-time", sql, message)
            held |= {lock.table} if is_strong else set()


def _can_be_replayed(replayer: Recorder, name: str) -> bool:
    """Whether pw_migrate, which runs the file again before each later one, finds nothing in it that needs rows."""
    try:
        return replayer.replay(name)
    except Exception:  # whatever the file's code raises
        return False


def _squawk_all(name: str, statements: list[str], excluded: Sequence[str]) -> Iterator[Finding]:
    first = _concurrent_ones(statements)
    # Outside the transaction the rule against CONCURRENTLY inside of one has nothing to say.
    yield from _squawk(name, statements[:first], excluded, in_transaction=False)
    yield from _squawk(name, statements[first:], excluded)


def _concurrent_ones(statements: list[str]) -> int:
    """How many statements at the beginning run outside the transaction."""
    return next((place for place, sql in enumerate(statements) if concurrent(sql) is None), len(statements))


def _squawk(
    name: str, statements: list[str], excluded: Iterable[str], *, in_transaction: bool = True
) -> Iterator[Finding]:
    if not statements:
        return
    command = [_program(), "--reporter", "json", f"--stdin-filepath={name}.sql", f"--exclude={','.join(excluded)}"]
    command.append("--assume-in-transaction" if in_transaction else "--no-assume-in-transaction")
    script = "".join(f"{statement}\n;\n" for statement in statements)
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise MigrationError(f"squawk said of {name}: {(done.stderr or done.stdout).strip()[:500]}") from None
    for row in found:
        message = " ".join(text for text in (row["message"], row["help"]) if text)
        yield Finding(name, row["rule_name"], _statement_at(statements, row["line"]), message)


def _statement_at(statements: list[str], line: int) -> str:
    for statement in statements:
        line -= statement.count("\n") + 2
        if line < 0:
            return statement
    return ""


def _program() -> str:
    """Beside this Python first; raises MissingExtra."""
    program = shutil.which("squawk", path=str(Path(sys.executable).parent)) or shutil.which("squawk")
    if program is None:
        raise MissingExtra("squawk", "lint")
    return program
