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
    ],
)
def test_expanding(tmp_path: Path, script: str, rules: list[str]) -> None:
    assert rules_of(tmp_path, **{"004_expand_x": script}) == [("004_expand_x", rule) for rule in rules]


def test_contracting_may_take_away_but_not_block(tmp_path: Path) -> None:
    script = "ALTER TABLE users DROP COLUMN name; CREATE INDEX i ON users (id)"
    assert rules_of(tmp_path, **{"004_contract_x": script}) == [("004_contract_x", "require-concurrent-index-creation")]


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
