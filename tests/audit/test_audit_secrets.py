"""What is secret never enters the audit log, and what becomes secret leaves it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

import presgen.features
from presgen import DatabaseManager, User
from presgen.errors import ConfigurationError
from presgen.ext import audit

CIPHERTEXT = "enc@@1:k1:c2VjcmV0"


def recorded() -> tuple[Any, Any]:
    (entry,) = audit.search(limit=1)
    return entry.old, entry.new


def everything(db: DatabaseManager) -> str:
    return str(db.database.execute_sql("SELECT * FROM audit_log").fetchall())


def test_that_a_password_changed_is_recorded_and_its_hash_is_not(db: DatabaseManager) -> None:
    ada = User.create(name="Ada")
    assert recorded()[1]["password_hash"] is None
    for value, was in (("hash-one", None), ("hash-two", "(masked)")):
        ada.password_hash = value
        ada.save()
        assert recorded() == ({"password_hash": was}, {"password_hash": "(masked)"})
    ada.delete_instance()
    assert recorded()[0]["password_hash"] == "(masked)"
    assert "hash-" not in everything(db)


def test_an_encrypted_value_is_recorded_as_one(db: DatabaseManager) -> None:
    db.database.execute_sql(f"INSERT INTO users (name) VALUES ('{CIPHERTEXT}')")
    assert recorded()[1]["name"] == "(encrypted)"
    db.database.execute_sql(f"UPDATE users SET name = '{CIPHERTEXT}2'")
    assert recorded() == ({"name": "(encrypted)"}, {"name": "(encrypted)"})
    db.database.execute_sql("UPDATE users SET name = 'plain text'")
    assert recorded() == ({"name": "(encrypted)"}, {"name": "(encrypted)"})
    db.database.execute_sql(f"UPDATE users SET name = '{CIPHERTEXT}'")
    assert recorded() == ({"name": "(encrypted)"}, {"name": "(encrypted)"})
    db.database.execute_sql("DELETE FROM users")
    assert recorded()[0]["name"] == "(encrypted)"
    assert "enc@@" not in everything(db)
    assert "plain text" not in everything(db)


def test_only_what_begins_as_ciphertext_is_taken_for_it(db: DatabaseManager) -> None:
    for name in ("ENC@@1:x", "x enc@@1:", "enc@@2:x"):
        User.create(name=name)
        assert recorded()[1]["name"] == name


def test_forgetting_a_column_masks_what_was_recorded_of_it(db: DatabaseManager) -> None:
    ada = User.create(name="Ada", email="ada@example.com")
    ada.email = None
    ada.save()
    ada.name = "Ada L."
    ada.save()
    ada.delete_instance()
    before = audit.search()
    audit.forget(db.database, "users", "email")
    audit.forget(db.database, "users", "nickname")
    audit.forget(db.database, "voice_clones", "name")
    renamed, cleared, created = audit.search()[1:]
    assert created.new == {**before[3].new, "email": "(encrypted)"}
    assert (cleared.old, cleared.new) == ({"email": "(encrypted)"}, {"email": None})
    assert (renamed.old, renamed.new) == ({"name": "Ada"}, {"name": "Ada L."})
    assert "ada@" not in everything(db)


def test_installing_what_makes_a_column_secret_masks_what_was_recorded_of_it(
    db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    User.create(name="Ada", email="ada@example.com")
    sealing: Any = ModuleType("presgen.ext.sealing")
    sealing.SECRETS = (("users", "email"), ("users", "name"))
    sealing.install = lambda database: None
    monkeypatch.setitem(sys.modules, "presgen.ext.sealing", sealing)
    monkeypatch.setattr(presgen.features, "FEATURES", (*presgen.features.FEATURES, "sealing"))
    db.install("sealing")
    (entry,) = audit.search()
    assert (entry.new["email"], entry.new["name"]) == ("(encrypted)", "(encrypted)")
    db.uninstall("audit")
    db.install("sealing")
    with pytest.raises(ConfigurationError):
        audit.search()
