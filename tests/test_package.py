"""What is in the package; what importing it costs is in test_imports.py."""

from __future__ import annotations

import pickle

import pytest

import presgen
from presgen import errors

CONTRACT = [
    "DatabaseConfig",
    "DatabaseManager",
    "User",
    "VoiceClone",
    "PresentationJob",
    "JobStatus",
    "JobEvent",
    "Worker",
    "MODELS",
    "PresgenError",
    "ValidationError",
    "InvalidTransition",
    "LeaseLost",
    "JobCancelled",
    "DatabaseUnavailable",
    "PoolTimeout",
    "CommitUnknown",
]


def test_the_public_names_are_the_contract() -> None:
    assert sorted(presgen.__all__) == sorted(CONTRACT)
    assert all(hasattr(presgen, name) for name in CONTRACT)
    assert [model.__name__ for model in presgen.MODELS] == ["User", "VoiceClone", "PresentationJob", "JobEvent"]


@pytest.mark.parametrize(
    "error",
    [
        errors.ValidationError("m", field="f", rule="r"),
        errors.ConstraintViolation("m", constraint="c"),
        errors.InvalidTransition(),
        errors.InvalidTransition("m"),
        errors.LeaseLost("m"),
        errors.DatabaseUnavailable("m"),
        errors.MissingExtra("library", "extra"),
    ],
)
def test_errors_survive_the_way_between_processes(error: errors.PresgenError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_errors_say_whether_to_try_again() -> None:
    assert errors.DatabaseUnavailable("x").retryable
    assert errors.PoolTimeout("x").retryable
    assert not errors.CommitUnknown("x").retryable
    assert issubclass(errors.ValidationError, ValueError)
