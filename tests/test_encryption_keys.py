"""Keyrings: from the environment or a function, and in no message, print-out or dump of a configuration."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from dataclasses import asdict, replace
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.canary import told

from presgen import DatabaseConfig, DatabaseManager
from presgen.cli import cli
from presgen.errors import ConfigurationError
from presgen.keyring import Keyring, new_entry

URL = "sqlite:///:memory:"
SECRET = b"canary-7f3a".ljust(32, b"!")
TEXT = base64.b64encode(SECRET).decode()
OTHER = base64.b64encode(b"x" * 32).decode()


def from_env(**variables: str) -> DatabaseConfig:
    return DatabaseConfig.from_env({"DATABASE_URL": URL, **variables})


def test_the_environment_names_the_keys_and_the_first_is_current() -> None:
    config = from_env(DATABASE_ENCRYPTION_KEYS=f"2026b:{TEXT}, 2026a:{OTHER},", DATABASE_INDEX_KEYS=f"i:{OTHER}")
    keys = config.encryption_keys
    assert keys is not None
    assert config.index_keys is not None
    assert (keys.current, keys.ids, config.index_keys.ids) == ("2026b", ("2026b", "2026a"), ("i",))
    assert (keys.key("2026b"), keys.key("2026a")) == (SECRET, b"x" * 32)
    assert from_env(DATABASE_ENCRYPTION_KEYS=" ").encryption_keys is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"a:{TEXT},a:{TEXT}", "DATABASE_ENCRYPTION_KEYS names the key a twice"),
        (f"Key:{TEXT}", "DATABASE_ENCRYPTION_KEYS: the id of entry 1 must be up to 32 lower-case letters"),
        (f"a:{OTHER},{TEXT}", "DATABASE_ENCRYPTION_KEYS: the id of entry 2 must be"),
        (",", "DATABASE_ENCRYPTION_KEYS has no key; `presgen encryption new-key` makes an entry"),
    ],
)
def test_a_malformed_keyring_is_refused_by_its_variable(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        from_env(DATABASE_ENCRYPTION_KEYS=text)
    assert TEXT not in told(caught.value)


@pytest.mark.parametrize("encoded", [TEXT[:-4], TEXT + TEXT, f"{TEXT[:-5]}%%%%=", "", "ä"])
def test_a_key_that_is_none_is_refused_by_its_id(encoded: str) -> None:
    said = "DATABASE_INDEX_KEYS: the key b is [0-9]+ bytes, and has to be 32 bytes"
    with pytest.raises(ConfigurationError, match=said) as caught:
        Keyring.from_text(f"a:{OTHER},b:{encoded}", variable="DATABASE_INDEX_KEYS")
    assert encoded == "" or encoded not in told(caught.value)


def test_an_id_that_is_not_there_is_named_with_those_that_are() -> None:
    keys = Keyring.from_text(f"a:{TEXT}", variable="DATABASE_ENCRYPTION_KEYS")
    with pytest.raises(
        ConfigurationError,
        match="DATABASE_ENCRYPTION_KEYS has no key b, .* it has a: put that key back, behind the current one$",
    ):
        keys.key("b")


def test_a_function_is_asked_once_for_each_key() -> None:
    asked: list[str] = []

    def fetch(key_id: str) -> bytes:
        asked.append(key_id)
        return SECRET

    keys = Keyring(["new", "old"], fetch)
    assert [keys.key("old"), keys.key("old"), keys.key("new")] == [SECRET] * 3
    assert asked == ["old", "new"]


def test_a_function_that_fails_is_asked_again_and_its_message_is_not_told() -> None:
    answers: list[Any] = [PermissionError(TEXT), b"short", SECRET]

    def fetch(key_id: str) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bytes(answer)

    keys = Keyring(["a"], fetch, variable="the KMS")
    for said in ("cannot be had: its source raised PermissionError", "is 5 bytes, and has to be 32 bytes"):
        with pytest.raises(ConfigurationError, match=f"the KMS: the key a {said}") as caught:
            keys.key("a")
        assert (TEXT in told(caught.value), caught.value.retryable) == (False, "raised" in said)
    assert keys.key("a") == SECRET


def test_nothing_that_prints_a_configuration_shows_a_key() -> None:
    config = from_env(DATABASE_ENCRYPTION_KEYS=f"a:{TEXT}", DATABASE_INDEX_KEYS=f"b:{TEXT}")
    for keys in (config.encryption_keys, config.index_keys):
        assert keys is not None
        keys.require_all()
    with DatabaseManager(config) as manager:
        database = manager.database
        shown: list[object] = [
            config,
            vars(config),
            asdict(config),
            vars(config.encryption_keys),
            manager,
            vars(manager),
        ]
        shown += [vars(database), database.sealing, vars(database.sealing), json.dumps(asdict(config), default=repr)]
        shown += [copy.deepcopy(config), copy.copy(config.index_keys), str(config.index_keys)]
        for secret in (TEXT, "canary-7f3a"):
            assert secret not in repr(shown)
    assert repr(config.index_keys) == "<Keyring b>"


def test_a_pickle_carries_the_keys_to_the_process_that_needs_them() -> None:
    config = from_env(DATABASE_ENCRYPTION_KEYS=f"a:{TEXT}", DATABASE_INDEX_KEYS=f"b:{TEXT}")
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.encryption_keys.key("a") == SECRET
    assert replace(config, pool_size=3).index_keys == config.index_keys
    assert from_env(DATABASE_ENCRYPTION_KEYS=f"a:{OTHER}") != from_env(DATABASE_ENCRYPTION_KEYS=f"a:{TEXT}")


def test_a_configuration_takes_keyrings_alone() -> None:
    for name in ("encryption_keys", "index_keys"):
        with pytest.raises(ConfigurationError, match=f"{name} must be a Keyring") as caught:
            DatabaseConfig(URL, **{name: f"a:{TEXT}"})  # type: ignore[arg-type]
        assert TEXT not in told(caught.value)


def test_new_key_prints_an_entry_that_works_and_never_the_same() -> None:
    runs = [CliRunner().invoke(cli, ["encryption", "new-key", "--id", "2026c"]).stdout for _ in range(2)]
    assert runs[0] != runs[1]
    assert [len(Keyring.from_text(run, variable="X").key("2026c")) for run in runs] == [32, 32]
    assert Keyring.from_text(CliRunner().invoke(cli, ["encryption", "new-key"]).stdout, variable="X").current
    refused = CliRunner().invoke(cli, ["encryption", "new-key", "--id", "A:B"])
    assert (refused.exit_code, refused.stderr[:36]) == (1, "Error: a key's id must be up to 32 l")
    with pytest.raises(ConfigurationError):
        new_entry("x" * 33)
