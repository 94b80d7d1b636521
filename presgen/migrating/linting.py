"""Linting migrations: squawk's rules, and what programs of the version before can live with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import MigrationError, MissingExtra
from .concurrent import concurrent
from .recording import Recorder

FIRST_RELEASE: Final = "003_create_triggers"
"""Up to here migrations build the schema from nothing, where nobody is at work yet."""

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
    "adding-not-nullable-field",
    "adding-required-field",
    "ban-drop-column",
    "ban-drop-not-null",
    "ban-drop-table",
    "changing-column-type",
    "renaming-column",
    "renaming-table",
)
_PHASED: Final = re.compile(r"\d{3}_(?P<phase>expand|contract)_\w+")


@dataclass(frozen=True)
class Finding:
    """What may hurt when a migration is applied to a database at work."""

    migration: str
    rule: str
    """squawk's name of the rule, or one of ours: name-the-phase, concurrently-first."""
    statement: str
    message: str


def findings(folder: Path, known: Sequence[str]) -> list[Finding]:
    """Whatever the rules say of a folder's migrations, oldest first.

    Those of the first release are looked at as one. Raises MissingExtra without squawk.
    """
    recorder = Recorder(folder)
    scripts = [(name, recorder.statements_of(name)) for name in known]
    first = [statement for name, statements in scripts if name <= FIRST_RELEASE for statement in statements]
    found = list(_squawk(FIRST_RELEASE, first, _EXCLUDED))
    for name, statements in scripts:
        if name > FIRST_RELEASE:
            found += _findings_of(name, statements)
    return found


def _findings_of(name: str, statements: list[str]) -> Iterator[Finding]:
    phase = _PHASED.fullmatch(name)
    if phase is None:
        message = "its name is to be NNN_expand_… or NNN_contract_…"
        yield Finding(name, "name-the-phase", "", message)
    first = next((place for place, sql in enumerate(statements) if concurrent(sql) is None), len(statements))
    for sql in statements[first:]:
        if concurrent(sql) is not None:
            message = "what is done CONCURRENTLY comes first in a migration, or in one of its own"
            yield Finding(name, "concurrently-first", sql, message)
    excluded = (*_EXCLUDED, *_CONTRACTING) if phase is not None and phase["phase"] == "contract" else _EXCLUDED
    # Outside the transaction the rule against CONCURRENTLY inside of one has nothing to say.
    yield from _squawk(name, statements[:first], excluded, in_transaction=False)
    yield from _squawk(name, statements[first:], excluded)


def _squawk(
    name: str, statements: list[str], excluded: Iterable[str], *, in_transaction: bool = True
) -> Iterator[Finding]:
    if not statements:
        return
    command = [_program(), "--reporter", "json", f"--stdin-filepath={name}.sql", f"--exclude={','.join(excluded)}"]
    command.append("--assume-in-transaction" if in_transaction else "--no-assume-in-transaction")
    script = "".join(f"{statement};\n" for statement in statements)
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
        line -= statement.count("\n") + 1
        if line < 0:
            return statement
    return ""


def _program() -> str:
    """Beside this Python first; raises MissingExtra."""
    program = shutil.which("squawk", path=str(Path(sys.executable).parent)) or shutil.which("squawk")
    if program is None:
        raise MissingExtra("squawk", "lint")
    return program
