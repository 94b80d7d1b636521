"""DatabaseConfig: every variable, every malformed value, and no password anywhere."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import asdict, replace
from typing import Any

import pytest

from presgen import DatabaseConfig, DatabaseManager, PresgenError
from presgen.errors import ConfigurationError

PARTS = {"POSTGRES_USER": "ada", "POSTGRES_PASSWORD": "c@nary/ä:%", "POSTGRES_DB": "prod"}


def test_the_parts_make_a_url() -> None:
    config = DatabaseConfig.from_env({**PARTS, "POSTGRES_HOST": "db.example.com", "POSTGRES_PORT": "6432"})
    parameters = config.connect_parameters()
    assert {name: parameters[name] for name in ("user", "password", "host", "port", "dbname")} == {
        "user": "ada",
        "password": "c@nary/ä:%",
        "host": "db.example.com",
        "port": "6432",
        "dbname": "prod",
    }
    assert DatabaseConfig.from_env(PARTS).safe_url == "postgresql://ada@localhost:5432/prod"
    socket = DatabaseConfig.from_env({"POSTGRES_USER": "ada", "POSTGRES_DB": "x", "POSTGRES_HOST": "/var/run"})
    assert socket.connect_parameters()["host"] == "/var/run"


def test_the_defaults_are_the_specifications() -> None:
    config = DatabaseConfig.from_env(PARTS)
    assert (config.pool_size, config.max_overflow, config.pool_timeout, config.pool_recycle) == (20, 30, 10, 3600)
    assert (config.connect_timeout, config.statement_timeout, config.slow_query_seconds) == (10, None, 1.0)
    assert config.application_name == "presentation-generator"
    parameters = config.connect_parameters()
    assert parameters["options"] == "-c timezone=UTC"
    assert parameters["keepalives"] == 1
    assert parameters["tcp_user_timeout"] == 10_000
    assert "sslmode" not in parameters


def test_every_variable_is_read() -> None:
    config = DatabaseConfig.from_env(
        {
            "DATABASE_URL": "postgresql://ada@h/prod?options=-csearch_path%3Dx",
            **PARTS,
            "DATABASE_SSL": "TRUE",
            "DATABASE_SSLROOTCERT": "/ca.pem",
            "DATABASE_DEBUG": "yes",
            "DATABASE_POOL_SIZE": "3",
            "DATABASE_MAX_OVERFLOW": "4",
            "DATABASE_POOL_TIMEOUT": "1.5",
            "DATABASE_POOL_RECYCLE": "60",
            "DATABASE_CONNECT_TIMEOUT": "2",
            "DATABASE_STATEMENT_TIMEOUT": "2.5",
            "DATABASE_SLOW_QUERY_SECONDS": "0.25",
            "DATABASE_APPLICATION_NAME": "worker",
        }
    )
    assert (config.pool_size, config.max_overflow, config.pool_timeout, config.pool_recycle) == (3, 4, 1.5, 60)
    assert (config.debug, config.slow_query_seconds) == (True, 0.25)
    parameters = config.connect_parameters()
    assert parameters["options"] == "-csearch_path=x -c timezone=UTC -c statement_timeout=2500"
    assert (parameters["sslmode"], parameters["sslrootcert"]) == ("require", "/ca.pem")
    assert (parameters["application_name"], parameters["connect_timeout"]) == ("worker", 2)


def test_pgbouncer_gets_no_options_of_ours() -> None:
    config = DatabaseConfig.from_env({**PARTS, "DATABASE_PGBOUNCER": "true", "DATABASE_STATEMENT_TIMEOUT": "5"})
    assert config.statement_timeout == 5
    assert "options" not in config.connect_parameters()
    own = DatabaseConfig("postgresql://h/x?options=-cfoo%3Dbar", pgbouncer=True)
    assert own.connect_parameters()["options"] == "-cfoo=bar"


def test_a_file_has_no_pgbouncer_in_front_of_it() -> None:
    config = DatabaseConfig("sqlite:///:memory:", pgbouncer=True)
    assert config.pgbouncer is False
    with DatabaseManager(config) as manager:
        assert manager.migrate() == manager.migrations.known()


@pytest.mark.parametrize(
    ("url_mode", "variables", "used"),
    [
        ("verify-full", {"DATABASE_SSL": "true"}, "verify-full"),
        ("disable", {"DATABASE_SSL": "true"}, "require"),
        ("prefer", {"DATABASE_SSL": "true", "DATABASE_SSLMODE": "verify-ca"}, "verify-ca"),
        ("prefer", {"DATABASE_SSL": "true", "DATABASE_SSLMODE": "allow"}, "require"),
        ("prefer", {"DATABASE_SSL": "false"}, "prefer"),
    ],
)
def test_tls_is_never_weaker_than_asked_for(url_mode: str, variables: dict[str, str], used: str) -> None:
    config = DatabaseConfig.from_env({"DATABASE_URL": f"postgresql://h/x?sslmode={url_mode}", **variables})
    assert config.connect_parameters()["sslmode"] == used


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "set DATABASE_URL, or POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_HOST, POSTGRES_PORT and POSTGRES_DB"),
        ({}, "embedded:"),
        ({"POSTGRES_HOST": "h"}, "POSTGRES_USER and POSTGRES_DB must be set as well"),
        ({"POSTGRES_USER": "u"}, "POSTGRES_DB must be set as well"),
        ({**PARTS, "POSTGRES_PORT": "canary"}, "port"),
        ({"DATABASE_URL": "mysql://u:canary@h/x"}, "expected postgresql://user:password@host:5432/name"),
        ({"DATABASE_URL": "postgresql://u:canary@h:99999/x"}, "port in the database URL must be a number from 1"),
        ({"DATABASE_URL": "postgresql://u:ca%nary@h/x"}, "malformed"),
        ({"DATABASE_URL": "postgresql://u:canary@h/x?nonsense=1"}, "malformed"),
        ({"DATABASE_URL": "postgresql://u:x@canary@h/x"}, "write @ in a password as %40, and / as %2F"),
        ({"DATABASE_URL": "postgresql://u:12/canary@h/x"}, "write @ in a password as %40, and / as %2F"),
        ({"DATABASE_URL": "sqlite://x"}, "malformed"),
        ({"DATABASE_URL": "embedded:x"}, "malformed"),
        ({"DATABASE_URL": "sqlite:///canary\n.db"}, "malformed"),
        ({"DATABASE_URL": "sqlite:///canary\udcff.db"}, "malformed"),
        ({"DATABASE_URL": "postgresql://u:canary@h/x?sslmode=bogus"}, "sslmode must be one of disable, allow"),
        ({**PARTS, "DATABASE_SSL": "maybe"}, "DATABASE_SSL must be true or false"),
        ({**PARTS, "DATABASE_SSLMODE": "strong"}, "sslmode must be one of disable, allow"),
        ({**PARTS, "DATABASE_SSL": "1", "DATABASE_SSLMODE": "strong"}, "sslmode must be one of disable"),
        ({**PARTS, "DATABASE_POOL_SIZE": "many"}, "DATABASE_POOL_SIZE must be a whole number"),
        ({**PARTS, "DATABASE_POOL_SIZE": "0"}, "pool_size must be a whole number of at least 1"),
        ({**PARTS, "DATABASE_MAX_OVERFLOW": "-1"}, "max_overflow must be a whole number of at least 0"),
        ({**PARTS, "DATABASE_POOL_TIMEOUT": "soon"}, "DATABASE_POOL_TIMEOUT must be a number of seconds"),
        ({**PARTS, "DATABASE_POOL_TIMEOUT": "nan"}, "pool_timeout must be a number"),
        ({**PARTS, "DATABASE_STATEMENT_TIMEOUT": "0"}, "statement_timeout must be a number of at least 0.001"),
        ({**PARTS, "DATABASE_STATEMENT_TIMEOUT": "0.0004"}, "statement_timeout must be a number of at least 0.001"),
        ({**PARTS, "DATABASE_POOL_LEAK_SECONDS": "0"}, "pool_leak_seconds must be a number of at least 0.001"),
    ],
)
def test_a_malformed_setting_is_named_without_its_secrets(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DatabaseConfig.from_env(environ)
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)
    assert "nary" not in repr(caught.value)
    assert isinstance(caught.value, PresgenError)


@pytest.mark.parametrize(
    "setting",
    [
        {"connect_timeout": 1.5},
        {"pool_size": 1.5},
        {"pool_size": "5"},
        {"statement_timeout": "5"},
        {"pool_timeout": None},
        {"pool_size": True},
        {"statement_timeout": True},
    ],
)
def test_a_setting_of_the_wrong_type_is_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        DatabaseConfig("postgresql://h/x", **setting)


WITH_PASSWORDS = [
    "postgresql://ada:canary@h:1/x?sslpassword=canary",
    "postgres://ada:canary?@h,g:1/x?connect_timeout=3",
    "postgresql://:canary@h/x?pass%77ord=canary&application_name=y",
    "postgresql://ada@h/x?password=canary",
]


@pytest.mark.parametrize("url", WITH_PASSWORDS)
def test_nothing_that_prints_a_configuration_shows_the_password(url: str) -> None:
    config = DatabaseConfig.from_env({"DATABASE_URL": url})
    manager = DatabaseManager(config)
    manager.open()
    try:
        shown: list[Any] = [
            config,
            config.safe_url,
            config.url,
            vars(config),
            vars(config.url),
            config._parameters,
            asdict(config),
            json.dumps(asdict(config)),
            copy.deepcopy(vars(config)),
            manager,
            vars(manager),
            manager.database,
            vars(manager.database),
            manager.health(),
        ]
        assert "canary" not in " ".join(f"{thing} {thing!r}" for thing in shown)
        assert manager.database.database == "x"
    finally:
        manager.close()


@pytest.mark.parametrize("url", WITH_PASSWORDS)
def test_a_configuration_that_hides_its_password_is_a_value_like_any_other(url: str) -> None:
    config = DatabaseConfig(url)
    changed = replace(config, pool_size=7)
    for same in (
        config,
        DatabaseConfig(config.url),
        copy.copy(config),
        copy.deepcopy(config),
        replace(config),
        changed,
    ):
        assert "canary" in same.connect_parameters().values() or "canary?" in same.connect_parameters().values()
    sent = pickle.loads(pickle.dumps(config))  # to another process, which is to connect
    assert sent.connect_parameters() == config.connect_parameters()
    assert config == DatabaseConfig(url) == copy.deepcopy(config) == sent != changed
    assert hash(config) == hash(DatabaseConfig(url))
    assert config != DatabaseConfig(url.replace("canary", "other"))
    assert config != DatabaseConfig(str.__str__(config.url))
    assert config.url != str.__str__(config.url)
    assert "password" not in replace(config, url="postgresql://ada@elsewhere/x").connect_parameters()


def test_a_url_without_a_password_is_shown_as_it_is() -> None:
    for url in ("postgresql://ada@h:1/x?connect_timeout=3", "sqlite:///x.db"):
        config = DatabaseConfig(url)
        assert (config.url, type(config.url)) == (url, str)
        assert pickle.loads(pickle.dumps(config)) == config


def test_other_backends_have_a_path() -> None:
    for url, backend, path in (
        ("sqlite:///:memory:", "sqlite", ":memory:"),
        ("sqlite:///data/x.db", "sqlite", "data/x.db"),
        ("sqlite:////data/x.db", "sqlite", "/data/x.db"),
        ("sqlite:////data/My\u00a0Project/👩\u200d🎤.db", "sqlite", "/data/My\u00a0Project/👩\u200d🎤.db"),
        ("embedded:///folder", "embedded", "folder"),
    ):
        config = DatabaseConfig(url)
        assert (config.backend, config.path, config.database, config.safe_url) == (backend, path, path, url)


def test_a_database_without_a_name_is_the_users() -> None:
    assert DatabaseConfig("postgresql://ada@h").connect_parameters()["dbname"] == "ada"
    assert DatabaseConfig("postgres://h/x").database == "x"
    assert DatabaseConfig("postgresql:///").database == "postgres"
