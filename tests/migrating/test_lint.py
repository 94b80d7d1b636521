"""squawk's rules over the statements of migrations, and those of expanding and contracting."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.later_migrations import write_later_migrations

from presgen.errors import MissingExtra
from presgen.migrating import linting
from presgen.migrator import Migrator, migrations_folder

MIGRATE = "def migrate(migrator, database, *, fake=False):\n"


def rules_of(tmp_path: Path, **files: str) -> list[tuple[str, str]]:
    bodies = {
        name: MIGRATE + "".join(f"    migrator.sql({sql!r})\n" for sql in script.split("; "))
        for name, script in files.items()
    }
    folder = write_later_migrations(tmp_path, **bodies)
    return [(finding.migration, finding.rule) for finding in Migrator(None, folder).lint()]


def test_the_migrations_of_this_version_are_clean() -> None:
    assert Migrator(None, migrations_folder()).lint() == []


@pytest.mark.parametrize(
    ("script", "rules"),
    [
        ("ALTER TABLE users ADD COLUMN nickname TEXT", []),
        ("CREATE INDEX CONCURRENTLY i ON users (name)", []),
        ("CREATE INDEX CONCURRENTLY i ON users (name); ALTER TABLE users ADD COLUMN nickname TEXT", []),
        ("CREATE INDEX i ON users (name)", ["require-concurrent-index-creation"]),
        ("DROP INDEX i", ["require-concurrent-index-deletion"]),
        ("ALTER TABLE users DROP COLUMN name", ["ban-drop-column"]),
        ("ALTER TABLE users RENAME COLUMN name TO label", ["renaming-column"]),
        ("ALTER TABLE users ADD COLUMN nickname TEXT NOT NULL", ["adding-required-field"]),
        ("ALTER TABLE users ALTER COLUMN email TYPE bytea", ["changing-column-type"]),
        ("ALTER TABLE users ADD CONSTRAINT c CHECK (id > 0)", ["constraint-missing-not-valid"]),
        ("ALTER TABLE users ADD CONSTRAINT c CHECK (id > 0) NOT VALID", []),
        ("DROP TRIGGER touch ON users", ["takes-away"]),
        ("-- why\nDROP TRIGGER touch ON users", ["takes-away"]),
        ("DO $$ BEGIN END $$", ["takes-away"]),
        ("DELETE FROM users", ["takes-away"]),
        ("ALTER TABLE users ADD COLUMN a TEXT; UPDATE users SET a = name", ["one-lock-at-a-time"]),
        ("ALTER TABLE users ADD COLUMN a TEXT; ALTER TABLE voice_clones ADD COLUMN a TEXT", ["one-lock-at-a-time"]),
        ("ALTER TABLE users ADD COLUMN a TEXT; ALTER TABLE users ADD COLUMN b TEXT", []),
        ("UPDATE users SET name = lower(name)", []),
    ],
)
def test_expanding(tmp_path: Path, script: str, rules: list[str]) -> None:
    assert rules_of(tmp_path, **{"004_expand_x": script}) == [("004_expand_x", rule) for rule in rules]


def test_contracting_may_take_away_but_not_block(tmp_path: Path) -> None:
    script = "ALTER TABLE users DROP COLUMN name; CREATE INDEX i ON users (id)"
    assert rules_of(tmp_path, **{"004_contract_x": script}) == [("004_contract_x", "require-concurrent-index-creation")]


@pytest.mark.parametrize(
    ("script", "rule"),
    [
        ("ALTER TABLE users ALTER COLUMN email TYPE bytea", "changing-column-type"),
        ("ALTER TABLE users ALTER COLUMN email SET NOT NULL", "adding-not-nullable-field"),
    ],
)
def test_contracting_may_not_rewrite_or_read_a_table_behind_a_lock(tmp_path: Path, script: str, rule: str) -> None:
    assert rules_of(tmp_path, **{"004_contract_x": script}) == [("004_contract_x", rule)]


def test_code_that_pw_migrate_would_stumble_over_later_is_told(tmp_path: Path) -> None:
    body = MIGRATE + "    rows = database.execute_sql('SELECT count(*) FROM users').fetchall()\n"
    careful = MIGRATE + "    if fake:\n        return\n    rows = database.execute_sql('SELECT 1').fetchall()\n"
    failing = MIGRATE + "    (count,) = database.execute_sql('SELECT count(*) FROM users').fetchone()\n"
    folder = write_later_migrations(
        tmp_path, **{"004_expand_x": body, "005_expand_y": careful, "006_expand_z": failing}
    )
    found = [(finding.migration, finding.rule) for finding in Migrator(None, folder).lint()]
    assert found == [("004_expand_x", "cannot-be-replayed"), ("006_expand_z", "cannot-be-told")]


def test_rolling_back_is_linted_too(tmp_path: Path) -> None:
    body = MIGRATE + "    pass\n\ndef rollback(migrator, database, *, fake=False):\n    migrator.sql('DROP INDEX i')\n"
    folder = write_later_migrations(tmp_path, **{"004_expand_x": body})
    (finding,) = Migrator(None, folder).lint()
    assert (finding.migration, finding.rule) == ("004_expand_x, rolled back", "require-concurrent-index-deletion")


def test_migrations_that_are_written_as_they_should_be_are_clean(later: Path) -> None:
    assert Migrator(None, later).lint() == []


def test_a_name_tells_the_phase(tmp_path: Path) -> None:
    assert rules_of(tmp_path, **{"004_nickname": "SELECT 1"}) == [("004_nickname", "name-the-phase")]


def test_what_is_done_concurrently_comes_first(tmp_path: Path) -> None:
    script = "ALTER TABLE users ADD COLUMN nickname TEXT; CREATE INDEX CONCURRENTLY i ON users (nickname)"
    assert ("004_expand_x", "concurrently-first") in rules_of(tmp_path, **{"004_expand_x": script})


def test_a_finding_names_its_statement(tmp_path: Path) -> None:
    script = "ALTER TABLE users\n  ADD COLUMN\n  a TEXT; CREATE INDEX i ON users (name)"
    body = MIGRATE + "".join(f"    migrator.sql({sql!r})\n" for sql in script.split("; "))
    (finding,) = Migrator(None, write_later_migrations(tmp_path, **{"004_expand_x": body})).lint()
    assert finding.statement == "CREATE INDEX i ON users (name)"


def test_without_squawk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linting.shutil, "which", lambda *_, **__: None)
    with pytest.raises(MissingExtra, match=r"presgen\[lint\]"):
        Migrator(None, migrations_folder()).lint()
