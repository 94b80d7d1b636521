"""Passwords: argon2 for new hashes, werkzeug's verified and upgraded, nothing shown."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from argon2 import PasswordHasher
from werkzeug.security import generate_password_hash

from presgen import DatabaseManager, User, ValidationError, passwords
from presgen.errors import MissingExtra
from presgen.passwords import (
    PASSWORD_MAX_LENGTH,
    cheap_hashes,
    hash_password,
    needs_rehash,
    verify_and_update,
    verify_password,
)

WITH_LIGATURE, PLAIN = "of\ufb01ce \uff11", "office 1"


def test_a_password_is_hashed_and_checked(user: User) -> None:
    user.set_password("correct horse")
    user.save()
    stored = User.get_by_id(user.id)
    assert stored.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert stored.check_password("correct horse")
    assert not stored.check_password("wrong horse")
    assert not stored.check_password("")
    assert not User(name="nobody").check_password("anything")


@pytest.mark.parametrize("method", ["scrypt", "pbkdf2:sha256:1000"])
def test_werkzeugs_hashes_are_verified_and_replaced(user: User, method: str) -> None:
    old = generate_password_hash("correct horse", method=method)
    User.update(password_hash=old).execute()
    stored = User.get_by_id(user.id)
    assert not stored.check_password("wrong horse")
    assert stored.password_hash == old
    assert stored.check_password("correct horse")
    assert User.get_by_id(user.id).password_hash.startswith("$argon2id$")
    assert User.get_by_id(user.id).check_password("correct horse")


def test_an_unsaved_user_is_upgraded_in_memory() -> None:
    user = User(name="new", password_hash=generate_password_hash("x", method="pbkdf2:sha256:1000"))
    assert user.check_password("x")
    assert user.password_hash.startswith("$argon2id$")


@pytest.mark.parametrize(
    "password", ["", "x" * (PASSWORD_MAX_LENGTH + 1), "\ufdfa" * 100, "x" * 10**7, None, 5, b"bytes"]
)
def test_what_is_no_password_is_refused_and_not_shown(password: object) -> None:
    with pytest.raises(ValidationError, match="^a password must be text of 1 to 1024 characters$") as caught:
        User(name="Ada").set_password(password)  # type: ignore[arg-type]
    assert caught.value.field == "password"
    assert not verify_password("$argon2id$whatever", password)  # type: ignore[arg-type]


@pytest.mark.parametrize("damaged", ["", "nonsense", "$argon2id$v=19$nonsense", "scrypt:x$y$z", "md5$a$b"])
def test_a_damaged_hash_matches_nothing(damaged: str) -> None:
    assert not verify_password(damaged, "x")


def test_any_text_is_a_password() -> None:
    assert verify_password(hash_password("pässwörd \ud800 🐝"), "pässwörd \ud800 🐝")


@pytest.mark.parametrize("library", ["argon2", "werkzeug.security"])
def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    old = generate_password_hash("x", method="pbkdf2:sha256:1000")
    passwords._hasher.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"pip install 'presgen\[passwords\]'"):
        hash_password("x") if library == "argon2" else verify_password(old, "x")
    passwords._hasher.cache_clear()


def test_a_password_is_the_same_however_it_is_typed() -> None:
    with cheap_hashes():
        for typed, checked in ((WITH_LIGATURE, PLAIN), (PLAIN, WITH_LIGATURE), ("e\u0301", "\u00e9")):
            assert verify_password(hash_password(typed), checked)
        assert not verify_password(hash_password("Office"), "office")


def test_the_length_is_that_of_the_normal_form() -> None:
    with cheap_hashes():
        assert verify_password(hash_password("e\u0301" * PASSWORD_MAX_LENGTH), "\u00e9" * PASSWORD_MAX_LENGTH)


def test_nothing_of_a_long_password_is_cut_off() -> None:
    long = "x" * PASSWORD_MAX_LENGTH
    with cheap_hashes():
        assert not verify_password(hash_password(long), long[:-1])
        assert not verify_password(hash_password("a\0b"), "a\0c")


def test_a_hash_of_the_text_as_it_was_typed_matches_and_is_replaced(user: User) -> None:
    with cheap_hashes():
        old = passwords._hasher(passwords._PROFILE.get()).hash(WITH_LIGATURE)
        User.update(password_hash=old).execute()
        stored = User.get_by_id(user.id)
        assert stored.check_password(WITH_LIGATURE)
        assert User.get_by_id(user.id).password_hash == stored.password_hash != old
        assert stored.check_password(PLAIN)
        assert verify_and_update(stored.password_hash, PLAIN) == (True, None)


def test_the_right_user_is_found_by_address_and_password(user: User) -> None:
    with cheap_hashes():
        user.set_password("correct horse")
        user.save()
        assert User.authenticate(" ADA@example.com".strip(), "correct horse") == user
        assert User.authenticate("ada@example.com", "wrong horse") is None
        User.update(is_active=False).execute()
        assert User.authenticate("ada@example.com", "correct horse") is None


@pytest.mark.parametrize("email", ["bob@example.com", "", "no address", "a\0@example.com", "\ud800@x.org", None, 5])
def test_nobody_takes_the_same_work_as_somebody(user: User, email: object, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[str] = []
    verify = PasswordHasher.verify

    def counted(hasher: PasswordHasher, stored: str, password: bytes) -> bool:
        costs.append(stored.rpartition("$")[0].rpartition("$")[0])
        return verify(hasher, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    with cheap_hashes():
        user.set_password("correct horse")
        user.save()
        assert User.authenticate("ada@example.com", "wrong") is None
        assert User.authenticate(email, "wrong") is None  # type: ignore[arg-type]
        assert User.verified(None, "wrong") is None
        assert User.verified(User(name="without one"), "wrong") is None
    assert costs == ["$argon2id$v=19$m=8,t=1,p=1"] * 4


def test_authenticating_is_one_statement(user: User, db: DatabaseManager, statements: list[str]) -> None:
    with cheap_hashes():
        user.set_password("x")
        user.save()
        statements.clear()
        assert User.authenticate("ada@example.com", "x") == user
    # Beside it, once a second, whether addresses are encrypted.
    assert len([statement for statement in statements if 'FROM "users"' in statement]) == 1


def test_a_hash_is_not_replaced_over_a_password_that_was_changed_meanwhile(user: User) -> None:
    User.update(password_hash=generate_password_hash("old", method="pbkdf2:sha256:1000")).execute()
    stale = User.get_by_id(user.id)
    with cheap_hashes():
        changed = User.get_by_id(user.id)
        changed.set_password("new")
        changed.save()
        assert stale.check_password("old")
        assert User.get_by_id(user.id).check_password("new")


def test_who_may_not_store_a_better_hash_logs_in_all_the_same(
    user: User, db: DatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    old = generate_password_hash("x", method="pbkdf2:sha256:1000")
    User.update(password_hash=old).execute()
    only_read = "PRAGMA query_only = 1" if db.config.backend == "sqlite" else "SET TRANSACTION READ ONLY"
    with cheap_hashes(), db.session() as database:
        begin_and_end = nullcontext() if db.config.backend == "sqlite" else db.transaction()
        with begin_and_end:
            database.execute_sql(only_read)
            assert User.authenticate("ada@example.com", "x") == user
    assert "stays an older one" in caplog.text
    assert old not in caplog.text


def test_a_row_that_is_locked_keeps_nobody_out(user: User, db: DatabaseManager, postgresql: str) -> None:
    User.update(password_hash=generate_password_hash("x", method="pbkdf2:sha256:1000")).execute()
    with cheap_hashes(), db.transaction(), ThreadPoolExecutor(1) as threads:
        User.update(name="locked").execute()
        assert threads.submit(User.authenticate, "ada@example.com", "x").result(30) == user


def test_a_replaced_hash_leaves_other_changes_to_their_own_save(user: User) -> None:
    User.update(password_hash=generate_password_hash("x", method="pbkdf2:sha256:1000")).execute()
    stored = User.get_by_id(user.id)
    stored.name = "Countess"
    assert stored.check_password("x")
    again = User.get_by_id(user.id)
    assert (again.name, again.updated_at) == ("Ada", stored.updated_at)
    stored.save()
    assert User.get_by_id(user.id).name == "Countess"


def test_cheap_hashes_are_replaced_by_strong_ones(user: User) -> None:
    with cheap_hashes():
        user.set_password("x")
        assert not needs_rehash(user.password_hash)
    user.save()
    assert User.get_by_id(user.id).check_password("x")
    assert User.get_by_id(user.id).password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_a_stronger_hash_stays_where_weaker_ones_are_made() -> None:
    strong = hash_password("x")
    with cheap_hashes():
        assert not needs_rehash(strong)
        assert verify_and_update(strong, "x") == (True, None)
    for outdated in ("scrypt:32768:8:1$a$b", strong.replace("argon2id", "argon2i"), "$argon2id$nonsense"):
        assert needs_rehash(outdated)


def test_no_password_and_no_hash_is_shown(user: User) -> None:
    user.set_password("correct horse")
    assert user.password_hash not in f"{user!r} {user}"
