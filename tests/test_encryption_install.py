"""Switching encryption on and off for a table with rows: all of them or none, and no program writes in the other form."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.encrypted import entry, keyed, keyring, stored

from presgen import DatabaseConfig, DatabaseManager, User, VoiceClone
from presgen.cli import cli
from presgen.clock import is_sqlite
from presgen.errors import (
    ConfigurationError,
    ConstraintViolation,
    DatabaseBusy,
    DecryptionError,
    EncryptionChanged,
    MigrationError,
    ValidationError,
)
from presgen.ext import encryption
from presgen.keyring import Keyring
from presgen.sealing import is_sealed

NAMES = ["001_create_tables", "002_create_indexes", "003_create_triggers"]


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """Has the keys, and 1,200 users in clear."""
    with keyed(url) as manager:
        User.insert_many([{"name": "x", "email": f"u{number}@example.com"} for number in range(1200)]).execute()
        User.create(name="nobody")
        VoiceClone.create(name="v", s3_path="/v.wav", owner=1)
        yield manager


def rows(manager: DatabaseManager) -> list[Any]:
    return list(User.select().order_by(User.id).dicts())


def schema(manager: DatabaseManager) -> list[Any]:
    """What the catalog has about the table, but for the rule against envelopes that stays."""
    if is_sqlite(manager.database):
        sql = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'plain_email%'"
    else:
        sql = """
        SELECT 'index', indexname::text, indexdef FROM pg_indexes WHERE tablename = 'users'
        UNION SELECT 'column', column_name::text, data_type || coalesce(character_maximum_length, 0)
            FROM information_schema.columns WHERE table_name = 'users'
        UNION SELECT 'rule', conname::text, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE conrelid = 'users'::regclass AND conname <> 'plain_email'
        UNION SELECT 'trigger', tgname::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
        """
    return sorted(manager.database.execute_sql(sql).fetchall())


def test_rows_are_sealed_and_opened_again_and_nothing_else_changes(db: DatabaseManager) -> None:
    before, tables, in_clear = rows(db), schema(db), stored(db)
    for _ in range(2):
        told: list[tuple[int, int]] = []
        db.install("encryption", progress=lambda *counts, told=told: told.append(counts))
        assert told == [(500, 1200), (1000, 1200), (1200, 1200)]
        assert (db.features(), rows(db)) == (["encryption"], before)
        assert [value is None or is_sealed(value) for value in stored(db)] == [True] * 1201
        db.uninstall("encryption")
        assert (db.features(), rows(db), stored(db), schema(db)) == ([], before, in_clear, tables)


def test_installing_and_uninstalling_again_is_no_error_and_no_work(db: DatabaseManager) -> None:
    db.uninstall("encryption")
    db.install("encryption")
    values = stored(db)
    db.install("encryption")
    assert stored(db) == values
    for _ in range(2):
        db.uninstall("encryption")
    assert db.features() == []


def test_it_is_part_of_the_callers_transaction(db: DatabaseManager) -> None:
    before = stored(db)
    with pytest.raises(ZeroDivisionError), db.transaction():
        db.install("encryption")
        assert User.get(email="u7@example.com").email == "u7@example.com"
        User.create(name="in between", email="between@example.com")
        raise ZeroDivisionError
    User.create(name="after", email="after@example.com")
    assert stored(db) == [*before, "after@example.com"]
    db.install("encryption")
    with pytest.raises(ZeroDivisionError), db.transaction():
        db.uninstall("encryption")
        User.create(name="in between", email="between@example.com")
        raise ZeroDivisionError
    User.create(name="again", email="again@example.com")
    assert all(value is None or is_sealed(value) for value in stored(db))


def test_it_needs_keys(url: str) -> None:
    with DatabaseManager(url) as manager:
        with pytest.raises(ConfigurationError, match="DATABASE_ENCRYPTION_KEYS is not set.*new-key"):
            manager.install("encryption")
        manager.uninstall("encryption")
        assert manager.features() == []
    with (
        keyed(url, index_keys=()) as manager,
        pytest.raises(ConfigurationError, match="DATABASE_INDEX_KEYS is not set"),
    ):
        manager.install("encryption")
    with keyed(url) as manager:
        with pytest.raises(ConfigurationError, match="progress must be a function"):
            manager.install("encryption", progress="x")
        manager.install("encryption")
        User.create(name="Ada", email="ada@example.com")
    with DatabaseManager(url) as manager:
        with pytest.raises(ConfigurationError, match="DATABASE_ENCRYPTION_KEYS is not set"):
            manager.uninstall("encryption")
        assert manager.features() == ["encryption"]


def test_a_program_without_keys_reads_and_writes_nothing_in_clear_and_finds_no_silence(
    db: DatabaseManager, url: str
) -> None:
    db.install("encryption")
    db.close()
    with DatabaseManager(url) as manager:
        for use in (
            lambda: list(User.select()),
            lambda: list(User.select(User.email).tuples()),
            lambda: User.get_or_none(email="u1@example.com"),
            lambda: User.create(name="x", email="x@example.com"),
            lambda: User.update(email="x@example.com").where(User.id == 1).execute(),
        ):
            with pytest.raises(ConfigurationError, match="DATABASE_(ENCRYPTION|INDEX)_KEYS is not set"):
                use()
        with pytest.raises(ValidationError, match="email is encrypted"):
            list(User.select(User.id).order_by(User.email))
        assert User.select(User.name).where(User.id == 1).get().name == "x"
        assert User.create(name="without an address").id
        manager.database.execute_sql("DELETE FROM users WHERE email IS NULL")
        assert all(map(is_sealed, stored(manager)))


def test_a_program_that_has_not_noticed_is_refused_once(db: DatabaseManager, url: str) -> None:
    """Its memory is kept from ageing, so that it is really old."""
    other = keyed(url)
    try:
        for change, form in ((db.install, True), (db.uninstall, False)):
            known = other.database.sealing.index_key_in_force(User.email.place)
            assert (known is None) is form
            other.database.sealing._looked_at = {User.email.place: (float("inf"), known)}
            change("encryption")
            User.bind(other.database)
            with pytest.raises(EncryptionChanged) as caught:
                User.create(name="x", email="x@example.com")
            assert caught.value.constraint == ("encrypted_email" if form else "plain_email")
            made = User.create(name="x", email="x@example.com")
            assert (is_sealed(stored(db)[-1]), User.get(email="x@example.com").id) == (form, made.id)
            made.delete_instance()
            User.bind(db.database)
    finally:
        User.bind(db.database)
        other.close()


def test_a_transaction_that_is_refused_is_repeated(db: DatabaseManager, url: str) -> None:
    db.database.sealing.index_key_in_force(User.email.place)
    db.database.sealing._looked_at = {User.email.place: (float("inf"), None)}
    with keyed(url) as other:
        other.install("encryption")
    User.bind(db.database)
    assert db.run_in_transaction(lambda: User.create(name="x", email="x@example.com")).email == "x@example.com"


def test_a_lookup_never_overlooks_what_has_been_sealed_meanwhile(db: DatabaseManager, url: str) -> None:
    assert User.get(email="u1@example.com").id
    other = keyed(url)
    other.install("encryption")
    other.close()
    User.bind(db.database)
    assert User.get(email="u1@example.com").email == "u1@example.com"


def test_readers_go_on_while_rows_are_sealed(postgresql: str, db: DatabaseManager, url: str) -> None:
    with DatabaseManager(DatabaseConfig(url, statement_timeout=5)) as other:
        User.bind(db.database)
        counts: list[int] = []

        def read(_done: int, _total: int) -> None:
            counts.append(other.database.execute_sql("SELECT count(*) FROM users WHERE email LIKE 'u%%'").fetchone()[0])

        db.install("encryption", progress=read)
    assert counts == [1200] * 3


def test_a_writer_in_the_way_is_waited_for_and_nothing_is_half_done(
    postgresql: str, db: DatabaseManager, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presgen.features._LOCK_TIMEOUT", "20ms")
    before = stored(db)
    with db.transaction():
        User.update(name="y").where(User.id == 1).execute()
        other = keyed(url)
        raised: list[BaseException] = []
        thread = threading.Thread(target=lambda: raised.append(_error_of(other)))
        thread.start()
        thread.join(60)
        assert isinstance(raised[0], DatabaseBusy)
        other.close()
    assert (stored(db), db.features()) == (before, [])


def _error_of(manager: DatabaseManager) -> BaseException:
    with pytest.raises(DatabaseBusy) as caught:
        manager.install("encryption")
    return caught.value


def test_migrations_that_would_lose_its_index_are_not_undone_under_it(db: DatabaseManager) -> None:
    db.install("encryption")
    db.rollback(1)
    db.migrate()
    assert db.features() == ["encryption"]
    for count in (2, 3):
        with pytest.raises(MigrationError, match="addresses are encrypted; run first: presgen uninstall encryption"):
            db.rollback(count)
        db.migrate()
    with pytest.raises(ConstraintViolation, match="idx_users_email"):
        User.create(name="x", email="u1@example.com")
    db.uninstall("encryption")
    assert (db.rollback(3), db.migrate(), db.features()) == (NAMES[::-1], NAMES, [])


def test_other_keys_of_the_same_ids_are_refused(db: DatabaseManager, url: str) -> None:
    db.install("encryption")
    db.close()
    others = Keyring(["k1"], lambda _: b"K" * 32), Keyring(["i1"], lambda _: b"I" * 32)
    right = keyring("k1"), keyring("i1")
    with DatabaseManager(DatabaseConfig(url, encryption_keys=right[0], index_keys=others[1])) as manager:
        for use in (
            lambda: User.create(name="x", email="u1@example.com"),
            lambda: User.get(email="u1@example.com"),
            lambda: manager.install("encryption"),
            lambda: encryption.require(manager),
        ):
            with pytest.raises(ConfigurationError, match="the key i1 is not the one of that id by which the database"):
                use()
    config = DatabaseConfig(url, encryption_keys=others[0], index_keys=right[1])
    with DatabaseManager(config) as manager, pytest.raises(DecryptionError, match="with the key k1 in the row 1: "):
        manager.install("encryption")
    config = DatabaseConfig(url, encryption_keys=right[0], index_keys=right[0])
    with (
        DatabaseManager(config) as manager,
        pytest.raises(ConfigurationError, match="an encryption key and an index key are the same"),
    ):
        manager.install("encryption")


def test_a_program_can_require_it_at_its_start(db: DatabaseManager, url: str) -> None:
    with pytest.raises(ConfigurationError, match="not encrypted by rule; run: presgen install encryption"):
        encryption.require(db)
    db.install("encryption")
    encryption.require(db)
    db.close()
    with DatabaseManager(url) as manager, pytest.raises(ConfigurationError, match="KEYS is not set"):
        encryption.require(manager)
    with keyed(url, index_keys=("i2",)) as manager, pytest.raises(ConfigurationError, match="has no key i1"):
        encryption.require(manager)


def test_another_index_key_comes_into_force_with_the_next_install(db: DatabaseManager, url: str) -> None:
    db.install("encryption")
    before = rows(db)
    db.close()
    with keyed(url, index_keys=("i2", "i1")) as manager:
        with pytest.raises(ConstraintViolation, match="idx_users_email"):
            User.create(name="x", email="u1@example.com")  # by the old key until then, so that it is seen
        assert (User.get(email="u1@example.com").name, {value.split(":")[3] for value in stored(manager) if value}) == (
            "x",
            {"i1"},
        )
        manager.install("encryption")
        assert (rows(manager), {value.split(":")[3] for value in stored(manager) if value}) == (before, {"i2"})
    with keyed(url, index_keys=("i2",)) as manager:
        assert User.get(email="u1@example.com").email == "u1@example.com"
        assert encryption.key_ids(manager) == {"k1": 1200}


def test_the_commands_install_show_and_rotate(url: str, db: DatabaseManager, monkeypatch: pytest.MonkeyPatch) -> None:
    def presgen(*arguments: str) -> tuple[str, str]:
        result = CliRunner().invoke(cli, ["--database", url, *arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout, result.stderr

    db.close()
    monkeypatch.setenv("DATABASE_INDEX_KEYS", entry("i1"))
    monkeypatch.setenv("DATABASE_ENCRYPTION_KEYS", entry("k1"))
    assert presgen("install", "encryption") == (
        "encryption is installed\n",
        "500 of 1200\n1000 of 1200\n1200 of 1200\n",
    )
    monkeypatch.setenv("DATABASE_ENCRYPTION_KEYS", f"{entry('k2')},{entry('k1')}")
    table = [line.split() for line in presgen("encryption", "status")[0].splitlines()]
    assert table == [["key", "values"], ["k2", "0", "current"], ["k1", "1200"]]
    out, err = presgen("encryption", "rotate", "--batch", "1000")
    assert (out, err) == ("1200 values are sealed anew\n", "1000 of 1200\n1200 of 1200\n")
    monkeypatch.setenv("DATABASE_ENCRYPTION_KEYS", entry("k3"))
    table = [line.split() for line in presgen("encryption", "status")[0].splitlines()]
    assert table[1:] == [["k3", "0", "current"], ["k2", "1200", "missing", "in", "DATABASE_ENCRYPTION_KEYS"]]
