"""One call on every backend, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import peewee as pw

from presgen import (
    MODELS,
    DatabaseManager,
    JobEvent,
    JobStatus,
    PresentationJob,
    User,
    ValidationError,
    VoiceClone,
)
from presgen.errors import ConstraintViolation, PresgenError

FAILED, FIRST, SECOND = 900_000, 900_001, 900_002
"""Ids of the rows that are there, in every table; the jobs are one that failed, one that waits and one in hand."""

# enqueue_many() looks at the clock and opens a transaction before it looks at its rows.
_WITH_VALUES: Final = re.compile(r"(?!SAVEPOINT|ROLLBACK|RELEASE|SELECT statement_timestamp)")


class _Undo(Exception):
    """Rolls a transaction back."""


@dataclass(frozen=True)
class Outcome:
    """What a call did: the class of its error with the field and the rule, or the row that it stored."""

    error: str | None = None
    about: tuple[Any, ...] = ()
    constraint: str | None = field(default=None, compare=False)
    stored: Any = None
    statements: tuple[str, ...] = field(default=(), compare=False)
    message: str = field(default="", compare=False)

    @property
    def is_stored(self) -> bool:
        """Whether the call went through."""
        return self.error is None

    @property
    def is_refused(self) -> bool:
        """Whether the caller is told what is wrong with the value or the call."""
        return self.error in ("ValidationError", "ConstraintViolation", "InvalidTransition")


class Backends:
    """Runs a call on one database after the other, each time in a transaction that is rolled back."""

    def __init__(self, managers: dict[str, DatabaseManager]) -> None:
        self.managers = managers
        self._statements: list[str] = []
        for name, manager in managers.items():
            manager.database.query_hooks.append(self._hear)
            with self.bound(name):
                _fill()

    @contextmanager
    def bound(self, name: str) -> Iterator[Any]:
        """Bind the models to one backend for the block."""
        database = self.managers[name].database
        before = User._meta.database
        for model in MODELS:
            model.bind(database, bind_refs=False, bind_backrefs=False)
        try:
            yield database
        finally:
            for model in MODELS:
                model.bind(before, bind_refs=False, bind_backrefs=False)

    def _hear(self, event: Any) -> None:
        if _WITH_VALUES.match(event.sql):
            self._statements.append(event.sql)

    def outcomes(self, prepare: Callable[[], Callable[[], Any]]) -> dict[str, Outcome]:
        """Prepare a call on every backend, make it, and read back what it gives: comparable facts of a row."""
        return {name: self._outcome(name, prepare) for name in self.managers}

    def outcome(self, prepare: Callable[[], Callable[[], Any]]) -> Outcome:
        """The outcome, which must be the same on every backend."""
        outcomes = self.outcomes(prepare)
        first = outcomes["sqlite"]
        for name, outcome in outcomes.items():
            assert outcome == first, (name, outcome, first, outcome.message, first.message)
            # SQLite does not name foreign keys.
            assert None in (outcome.constraint, first.constraint) or outcome.constraint == first.constraint
            was_sent = outcome.statements != () and "unsendable" not in outcome.about
            assert outcome.error != "ValidationError" or not was_sent, (name, outcome)
        return first

    def _outcome(self, name: str, prepare: Callable[[], Callable[[], Any]]) -> Outcome:
        outcome = None
        with self.bound(name), suppress(_Undo), self.managers[name].transaction():
            call = prepare()
            self._statements.clear()
            try:
                read_back = call()
            except (PresgenError, pw.DoesNotExist) as error:
                outcome = _refusal(error, tuple(self._statements))
            else:
                outcome = Outcome(stored=read_back())
            raise _Undo
        assert outcome is not None
        return outcome


def _refusal(error: Exception, statements: tuple[str, ...]) -> Outcome:
    assert len(str(error)) < 500, str(error)[:600]
    assert error.__cause__ is None
    return Outcome(
        error=type(error).__name__,
        about=(error.field, error.rule) if isinstance(error, ValidationError) else (),
        constraint=error.constraint if isinstance(error, ConstraintViolation) else None,
        statements=statements,
        message=str(error),
    )


def _fill() -> None:
    for number in (FAILED, FIRST, SECOND):
        User.create(id=number, name="Ada", email=f"ada{number}@example.com")
        VoiceClone.create(id=number, name="v", s3_path=f"/v{number}.wav", owner=number)
    deck = {"owner": FIRST, "voice_clone": FIRST, "s3_pptx_path": "/x.pptx"}
    PresentationJob.create(id=FIRST, **deck)
    PresentationJob.create(
        id=SECOND,
        **deck,
        status=JobStatus.PROCESSING_SLIDES,
        attempt=1,
        worker="w1",
        lease_expires_at=datetime.now(timezone.utc) + timedelta(days=1),
    )
    PresentationJob.create(id=FAILED, **deck, status=JobStatus.FAILED, error_message="É e\u0301 100 %_\\ x\n'😀'")
    for number in (FAILED, FIRST, SECOND):
        JobEvent.create(id=number, job=FIRST, from_status="pending", to_status="failed", attempt=1, worker="w1")
