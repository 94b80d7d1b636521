"""Installing the audit log: which tables, without which columns, again, otherwise, and not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.rows import Enqueue

from presgen import DatabaseManager, User, ValidationError, VoiceClone
from presgen.cli import cli
from presgen.errors import ConfigurationError
from presgen.ext import audit
from presgen.migrating.catalog import catalog

REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"tables": "users,people"}, "audit knows no plain table 'people'; those of presgen are users"),
    ({"tables": "audit_log"}, "audit knows no plain table 'audit_log'"),
    ({"tables": "USERS"}, "audit knows no plain table 'USERS'"),
    ({"tables": "everybody"}, "audit knows no plain table 'everybody'"),
    ({"tables": []}, "audit needs a table"),
    ({"tables": ""}, "audit needs a table"),
    ({"tables": [1]}, "audit's tables must be names, not of type int"),
    ({"exclude": [[]]}, "audit's exclude must be names, not of type list"),
    ({"tables": "keyless"}, "audit needs a whole-number id, which the table 'keyless' does not have"),
    ({"exclude": "users.mail"}, "audit cannot exclude 'users.mail'"),
    ({"exclude": "mail"}, "audit cannot exclude 'mail'"),
    ({"exclude": "id"}, "audit cannot exclude 'id'"),
    ({"exclude": "users.id"}, "audit cannot exclude 'users.id'"),
    ({"exclude": "people.name"}, "audit cannot exclude 'people.name'"),
    ({"columns": "name"}, "audit has no option 'columns'; its options: tables, exclude"),
)


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """A database that is not audited yet."""
    with DatabaseManager(url) as manager:
        yield manager


def recorded() -> list[str]:
    return sorted({entry.table_name for entry in audit.search()})


def test_uninstalling_leaves_no_trace(db: DatabaseManager) -> None:
    before = catalog(db.database)
    db.uninstall("audit")
    db.install("audit")
    assert db.features() == ["audit"]
    db.uninstall("audit")
    assert (db.features(), catalog(db.database)) == ([], before)
    User.create(name="Ada")


def test_installing_again_changes_nothing_and_keeps_the_log(db: DatabaseManager) -> None:
    db.install("audit")
    User.create(name="Ada")
    before = catalog(db.database)
    db.install("audit")
    assert catalog(db.database) == before
    assert [entry.operation for entry in audit.search()] == ["INSERT"]


def test_only_the_chosen_tables_are_audited(db: DatabaseManager, voice: VoiceClone) -> None:
    db.install("audit", tables=["voice_clones"])
    User.create(name="Eve")
    VoiceClone.update(name="v").execute()
    assert recorded() == ["voice_clones"]
    db.install("audit", tables="users")
    VoiceClone.update(name="w").execute()
    assert recorded() == ["voice_clones"]
    User.update(name="Eve").execute()
    assert recorded() == ["users", "voice_clones"]
    db.install("audit", tables=[VoiceClone, "users"])
    chosen = db.database.execute_sql("SELECT table_name FROM audit_tables ORDER BY table_name").fetchall()
    assert chosen == [("users",), ("voice_clones",)]
    assert len(audit.search(table=VoiceClone)) == 1


def test_only_the_excluded_columns_are_left_out(db: DatabaseManager, enqueue: Enqueue) -> None:
    db.install("audit", exclude=("users.name", "updated_at", "priority"))
    enqueue()
    (entry, *_) = audit.search()
    assert "progress" in entry.new
    assert {"priority", "updated_at"}.isdisjoint(entry.new)
    User.update(name="Eve").execute()
    assert audit.search(table=User) == []
    VoiceClone.update(name="v").execute()
    assert len(audit.search(table=VoiceClone)) == 1


def test_what_was_chosen_stays_until_it_is_chosen_anew(db: DatabaseManager) -> None:
    db.install("audit", tables="users", exclude="users.email")
    db.install("audit")
    User.create(name="Ada", email="ada@example.com")
    ((entry,), voices) = audit.search(), audit.search(table=VoiceClone)
    assert ("email" in entry.new, voices) == (False, [])
    db.install("audit", tables=audit.TABLES, exclude=audit.EXCLUDED)
    assert "email" in audit_of_a_new_user()


def audit_of_a_new_user() -> dict[str, Any]:
    User.create(name="Bob")
    new: dict[str, Any] = audit.search(limit=1)[0].new
    return new


def test_a_table_of_the_applications_own_can_be_audited(db: DatabaseManager) -> None:
    db.database.execute_sql('CREATE TABLE "Odd ""name" (id INTEGER PRIMARY KEY, "It\'s" TEXT, data TEXT)')
    db.install("audit", tables=['Odd "name'], exclude=['Odd "name.data'])
    assert db.features() == ["audit"]
    db.database.execute_sql("INSERT INTO \"Odd \"\"name\" VALUES (7, 'x', 'y')")
    (entry,) = audit.history('Odd "name', 7)
    assert entry.new == {"id": 7, "It's": "x"}


def test_what_does_not_exist_is_refused_by_name(db: DatabaseManager) -> None:
    db.database.execute_sql("CREATE TABLE keyless (name TEXT)")
    db.database.execute_sql("CREATE VIEW everybody AS SELECT * FROM users")
    for options, said in REFUSED:
        with pytest.raises(ConfigurationError, match=said):
            db.install("audit", **options)
    assert db.features() == []


def test_what_is_no_list_of_names_is_refused(db: DatabaseManager) -> None:
    with pytest.raises(ValidationError, match="tables must be an iterable, not int"):
        db.install("audit", tables=7)


def test_the_command_takes_options(db: DatabaseManager, url: str) -> None:
    words = (
        "--database",
        url,
        "install",
        "audit",
        "--set",
        "tables=users, voice_clones",
        "--set",
        "exclude=users.name",
    )
    result = CliRunner().invoke(cli, words)
    assert (result.exit_code, result.output) == (0, "audit is installed\n")
    with db.transaction():
        User.create(name="Ada")
    assert "name" not in audit.search()[0].new


def test_the_command_asks_before_the_log_is_lost(db: DatabaseManager, url: str) -> None:
    db.install("audit")
    words = ("--database", url, "uninstall", "audit")
    for answer in ("", "n\n"):
        result = CliRunner().invoke(cli, words, input=answer)
        assert (result.exit_code, "the audit log will be lost" in result.output) == (1, True)
        assert isinstance(result.exception, SystemExit)  # and no traceback
        assert result.stderr.endswith("Error: aborted; nothing was done\n")
    assert db.features() == ["audit"]
    result = CliRunner().invoke(cli, words, input="y\n")
    assert (result.exit_code, db.features()) == (0, [])
    db.install("audit")
    result = CliRunner().invoke(cli, (*words, "--yes"))
    assert (result.output, db.features()) == ("audit is not installed\n", [])


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TRIGGER presgen_audit ON users",
        "DROP TRIGGER presgen_audit_truncate ON voice_clones",
        "ALTER TABLE users DISABLE TRIGGER presgen_audit",
        "ALTER TABLE audit_log DISABLE TRIGGER presgen_audit_guard",
        "DROP PROCEDURE presgen_audit_action",
        "DROP TRIGGER presgen_audit ON voice_clones; DROP TRIGGER presgen_audit_truncate ON voice_clones",
    ],
)
def test_installing_mends_what_is_half_there(db: DatabaseManager, postgresql: str, damage: str) -> None:
    db.install("audit", exclude="users.email,updated_at")
    before = catalog(db.database)
    db.database.execute_sql(damage)
    assert db.features() == []
    db.install("audit")
    assert (db.features(), catalog(db.database)) == (["audit"], before)


def test_installing_mends_sqlite_too() -> None:
    with DatabaseManager("sqlite:///:memory:") as manager:
        manager.migrate()
        manager.install("audit")
        before = catalog(manager.database)
        of_users = ("presgen_audit_insert_users", "presgen_audit_update_users", "presgen_audit_delete_users")
        for triggers in (("presgen_audit_update_users",), ("presgen_audit_no_delete",), of_users):
            for trigger in triggers:
                manager.database.execute_sql(f"DROP TRIGGER {trigger}")
            assert manager.features() == []
            manager.install("audit")
            assert (manager.features(), catalog(manager.database)) == (["audit"], before)


def test_migrations_roll_back_and_forth_under_it(db: DatabaseManager) -> None:
    db.install("audit")
    db.rollback(3)
    assert db.features() == []
    db.migrate()
    db.install("audit")
    assert db.features() == ["audit"]
    User.create(name="Ada")
    assert recorded() == ["users"]


def test_without_the_log_its_functions_say_what_to_do(db: DatabaseManager) -> None:
    for use in (lambda: audit.action("login"), audit.search, lambda: audit.history(User, 1)):
        with pytest.raises(ConfigurationError, match="the database has no audit log; run: presgen install audit"):
            use()


def test_rows_that_have_another_tables_name_are_refused(db: DatabaseManager, postgresql: str) -> None:
    for statement in (
        "CREATE TABLE parent (id BIGINT) PARTITION BY RANGE (id)",
        "CREATE TABLE part PARTITION OF parent FOR VALUES FROM (1) TO (9)",
        "CREATE TABLE older (id BIGINT)",
        "CREATE TABLE newer () INHERITS (older)",
    ):
        db.database.execute_sql(statement)
    for table in ("part", "older"):
        with pytest.raises(ConfigurationError, match="knows no plain table"):
            db.install("audit", tables=table)
    db.install("audit", tables="newer")
    db.database.execute_sql("INSERT INTO newer VALUES (1)")
    db.install("audit", tables="parent,newer")
    db.database.execute_sql("INSERT INTO parent VALUES (1)")
    assert recorded() == ["newer", "parent"]
