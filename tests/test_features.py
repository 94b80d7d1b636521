"""Opt-in features: found by name, installed in the database, and gone without a trace."""

from __future__ import annotations

import pkgutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
from click.testing import CliRunner

import presgen.ext
import presgen.features
from presgen import DatabaseConfig, DatabaseManager
from presgen.cli import cli
from presgen.errors import ConfigurationError, DatabaseBusy, MigrationError
from presgen.features import FEATURES, find_feature

NOTIFY = {"presgen_notify", "notify_added", "notify_due"}


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """A database of the test's own: a feature would stay in the shared one."""
    with DatabaseManager(DatabaseConfig(url, pool_timeout=5)) as manager:
        yield manager


def traces(manager: DatabaseManager) -> set[str]:
    """The functions and triggers that are notify's."""
    sql = "SELECT proname::text FROM pg_proc UNION SELECT tgname::text FROM pg_trigger"
    return {name for (name,) in manager.database.execute_sql(sql).fetchall() if name in NOTIFY}


def test_the_features_are_the_modules_that_can_be_installed() -> None:
    names = [module.name for module in pkgutil.iter_modules(presgen.ext.__path__)]
    installable = {name for name in names if hasattr(import_module(f"presgen.ext.{name}"), "install")}
    assert installable == set(FEATURES)
    for name in FEATURES:
        feature = find_feature(name)
        assert all(callable(getattr(feature, verb)) for verb in ("install", "uninstall", "is_installed"))


def test_a_feature_is_where_the_database_is(postgresql: str, db: DatabaseManager, url: str) -> None:
    assert db.features() == []
    db.install("notify")
    other = DatabaseManager(url)
    try:
        assert (db.features(), other.features()) == (["notify"], ["notify"])
        other.uninstall("notify")
        assert (db.features(), other.features()) == ([], [])
    finally:
        other.close()


def test_installing_and_uninstalling_again_is_no_error(postgresql: str, db: DatabaseManager) -> None:
    db.uninstall("notify")
    for _ in range(2):
        db.install("notify")
        assert traces(db) == NOTIFY
    for _ in range(2):
        db.uninstall("notify")
        assert traces(db) == set()


def test_installing_mends_what_is_half_there(postgresql: str, db: DatabaseManager) -> None:
    db.install("notify")
    db.database.execute_sql("DROP TRIGGER notify_due ON presentation_jobs")
    assert db.features() == []
    db.install("notify")
    assert db.features() == ["notify"]


def test_an_unknown_feature_is_refused_with_the_known_ones(db: DatabaseManager) -> None:
    for verb in (db.install, db.uninstall):
        for name in ("notifi", "prometheus", "../conf", ""):
            with pytest.raises(ConfigurationError, match=r"there is no feature '.*'; known are notify"):
                verb(name)


def test_notify_cannot_be_had_on_sqlite() -> None:
    with DatabaseManager("sqlite:///:memory:") as manager:
        manager.migrate()
        with pytest.raises(ConfigurationError, match="notify needs PostgreSQL; on SQLite workers poll"):
            manager.install("notify")
        manager.uninstall("notify")
        assert manager.features() == []


def test_a_feature_needs_the_newest_schema(postgresql: str, db: DatabaseManager) -> None:
    db.rollback()
    with pytest.raises(MigrationError, match="003_create_triggers is pending; run: presgen migrate"):
        db.install("notify")
    db.rollback(2)
    with pytest.raises(MigrationError, match="001_create_tables is pending"):
        db.install("notify")
    db.uninstall("notify")
    assert db.features() == []


def test_installs_at_the_same_time_all_succeed(postgresql: str, db: DatabaseManager) -> None:
    for _ in range(5):
        together = threading.Barrier(6)

        def install(together: threading.Barrier = together) -> None:
            with db.session():
                together.wait(10)
                db.install("notify")

        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(install) for _ in range(6)]:
                done.result(30)
        assert db.features() == ["notify"]
        db.uninstall("notify")


def test_an_install_that_waits_for_writers_gives_way_and_keeps_nothing(
    postgresql: str, db: DatabaseManager, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presgen.features, "_LOCK_TIMEOUT", "20ms")
    with db.transaction():
        db.database.execute_sql("LOCK TABLE presentation_jobs IN ROW EXCLUSIVE MODE")
        with DatabaseManager(url) as other:
            with pytest.raises(DatabaseBusy):
                other.install("notify")
            assert other.features() == []
            (timeout,) = other.database.execute_sql("SHOW lock_timeout").fetchone()
            assert timeout == "0"
    db.install("notify")
    assert db.features() == ["notify"]


def test_an_install_is_part_of_the_callers_transaction(postgresql: str, db: DatabaseManager) -> None:
    with pytest.raises(ZeroDivisionError), db.transaction():
        db.install("notify")
        assert db.features() == ["notify"]
        raise ZeroDivisionError
    assert db.features() == []


@pytest.mark.parametrize("count", [1, 3])
def test_migrations_roll_back_and_forth_under_a_feature(postgresql: str, db: DatabaseManager, count: int) -> None:
    db.install("notify")
    db.rollback(count)
    db.migrate()
    db.install("notify")
    assert db.features() == ["notify"]
    db.uninstall("notify")
    assert traces(db) == set()


def test_the_commands_list_install_and_uninstall(postgresql: str, url: str) -> None:
    def presgen(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["--database", url, *arguments])
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout

    heading, row, *_ = presgen("features").splitlines()
    assert heading.split() == ["feature", "installed", "what", "it", "is", "what", "it", "costs"]
    assert row.split()[:4] == ["notify", "no", "workers", "hear"]
    assert presgen("install", "notify") == "notify is installed\n"
    assert presgen("features").splitlines()[1].split()[:2] == ["notify", "yes"]
    assert presgen("uninstall", "notify") == "notify is not installed\n"
    assert presgen("features").splitlines()[1].split()[:2] == ["notify", "no"]


def test_the_commands_refuse_in_one_line(url: str) -> None:
    for verb in ("install", "uninstall"):
        result = CliRunner().invoke(cli, ["--database", url, verb, "bogus"])
        assert (result.exit_code, result.stderr) == (
            1,
            f"Error: there is no feature 'bogus'; known are {', '.join(FEATURES)}\n",
        )
