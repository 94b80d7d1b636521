"""Any value as an option of a manager, a worker or a configuration: taken, or refused by name before it can hurt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import pytest
from hostile_values import HOSTILE, Given

from presgen import DatabaseConfig, DatabaseManager, PresgenError, ValidationError, Worker
from presgen.errors import ConfigurationError, MigrationError

# No option looks into what is large or deep.
VALUES = [value for value in HOSTILE if "MB" not in value.label and "deep" not in value.label]
URL = "postgresql://ada@h/x"
Use = Callable[[DatabaseManager, Any], Any]


def nothing(_: Any = None) -> None:
    pass


def without(*kinds: Any) -> Iterable[Given]:
    return [value for value in VALUES if not isinstance(value.make(), kinds)]


IN_A_DATABASE: dict[str, Use] = {
    "run_in_transaction(retries)": lambda manager, value: manager.run_in_transaction(nothing, retries=value),
    "run_in_transaction(within)": lambda manager, value: manager.run_in_transaction(nothing, within=value),
    "rollback(count)": lambda manager, value: manager.rollback(value),
    "install(feature)": lambda manager, value: manager.install(value),
    "uninstall(feature)": lambda manager, value: manager.uninstall(value),
    "migrate(target)": lambda manager, value: manager.migrate("none" if value is None else value),
}
OF_A_WORKER: dict[str, Use] = {
    "manager": lambda _, value: Worker(value, nothing),
    "handler": lambda manager, value: Worker(manager, value),
    **{
        name: lambda manager, value, name=name: Worker(manager, nothing, **{name: value})
        for name in ("name", "lease", "poll", "concurrency", "timeout", "grace", "fair", "max_per_owner")
    },
}
OPTIONS = [field.name for field in fields(DatabaseConfig) if field.init]


def refusals(use: Use, manager: DatabaseManager, values: Iterable[Given] = VALUES) -> list[PresgenError]:
    refused: list[PresgenError] = []
    for value in values:
        try:
            use(manager, value.make())
        except (ValidationError, ConfigurationError, MigrationError) as error:
            refused.append(error)
    assert all(len(str(error)) < 500 for error in refused)
    return refused


def test_every_option_of_a_manager_is_taken_or_refused(empty_url: str) -> None:
    with DatabaseManager(empty_url) as manager:
        for name, use in IN_A_DATABASE.items():
            assert refusals(use, manager), name
        with pytest.raises(ValidationError, match="work must be a function"):
            manager.run_in_transaction(5)  # type: ignore[arg-type]
        assert manager.database.get_tables() == []


def test_every_option_of_a_worker_is_taken_or_refused() -> None:
    manager = DatabaseManager("sqlite:///:memory:")
    for name, use in OF_A_WORKER.items():
        refused = refusals(use, manager)
        assert 0 < len(refused) < len(VALUES) or name == "manager", name
        assert all(isinstance(error, ValidationError) for error in refused), name


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_a_configuration_is_taken_or_refused(option: str) -> None:
    config = DatabaseConfig(URL)
    refused: list[str] = []
    for value in VALUES:
        try:
            changed = replace(config, **{option: value.make()})
        except ConfigurationError as error:
            refused.append(str(error))
            continue
        assert repr(changed) == repr(config)
        assert hash(changed) is not None
        assert isinstance(changed.connect_parameters(), dict)
    assert refused
    assert all((option if option != "url" else "database URL") in said for said in refused)


def test_every_value_as_a_manager_is_refused() -> None:
    for value in VALUES:
        with pytest.raises(ConfigurationError):
            DatabaseManager(value.make())
