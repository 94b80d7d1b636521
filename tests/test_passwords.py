"""Passwords: argon2 for new hashes, werkzeug's verified and upgraded, nothing shown."""

from __future__ import annotations

import sys

import pytest
from werkzeug.security import generate_password_hash

from presgen import User, ValidationError
from presgen.errors import MissingExtra
from presgen.passwords import PASSWORD_MAX_LENGTH, hash_password, verify_password


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


@pytest.mark.parametrize("password", ["", "x" * (PASSWORD_MAX_LENGTH + 1), None, 5, b"bytes"])
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
    from presgen import passwords

    passwords._hasher.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"pip install 'presgen\[passwords\]'"):
        hash_password("x") if library == "argon2" else verify_password(old, "x")
    passwords._hasher.cache_clear()
