"""What is sealed reads back; what was cut, changed, copied or sealed with another key is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fixtures.canary import told
from fixtures.effort import settings_for
from fixtures.encrypted import keyed, keyring, store, stored
from hypothesis import given
from hypothesis import strategies as st

from presgen import DatabaseManager, User
from presgen.errors import ConfigurationError, DecryptionError, ValidationError
from presgen.keyring import Keyring
from presgen.sealing import PREFIX, Place, Sealing
from presgen.validation import email

PLACE = Place("users", "email")
SEALING = Sealing(None, keyring("k2", "k1"), keyring("i1"))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@settings_for(short=200, full=5000)
@given(text=TEXTS, is_indexed=st.booleans())
def test_every_text_reads_back(text: str, is_indexed: bool) -> None:
    sealed = SEALING.seal(text, PLACE, index_key_id="i1" if is_indexed else None)
    assert SEALING.open(sealed, PLACE) == text
    assert sealed == sealed.lower()
    assert sealed.isascii()
    assert ":" not in sealed.rpartition(":")[2]
    assert SEALING.seal(text, PLACE, index_key_id=None) != SEALING.seal(text, PLACE, index_key_id=None)


@settings_for(short=200, full=5000)
@given(text=st.one_of(st.emails(), TEXTS))
def test_no_address_looks_like_an_envelope_and_an_envelope_is_where_sql_finds_its_digest(text: str) -> None:
    sealed = SEALING.seal(text, PLACE, index_key_id="i1")
    assert sealed[7 : 7 + 43] == SEALING.digest(text, PLACE, "i1")
    for candidate in (sealed, PREFIX + text):
        with pytest.raises(ValidationError):
            email(candidate)


@settings_for(short=400, full=20_000)
@given(data=st.data())
def test_no_change_of_one_character_goes_unnoticed(data: st.DataObject) -> None:
    sealed = SEALING.seal("ada@example.com", PLACE, index_key_id="i1")
    position = data.draw(st.integers(0, len(sealed) - 1))
    other = data.draw(st.sampled_from("0123456789abcdefgk:-@ \n"))
    changed = sealed[:position] + other + sealed[position + 1 :]
    if changed != sealed:
        with pytest.raises((DecryptionError, ConfigurationError)):
            SEALING.open(changed, PLACE)


def test_an_envelope_cut_anywhere_is_refused() -> None:
    sealed = SEALING.seal("ada@example.com", PLACE, index_key_id="i1")
    for length in range(len(sealed)):
        with pytest.raises(DecryptionError):
            SEALING.open(sealed[:length], PLACE)
    for added in ("0", "00", "\n", ":"):
        with pytest.raises(DecryptionError):
            SEALING.open(sealed + added, PLACE)


Spoil = Callable[[DatabaseManager, User, User], str]
SPOILT: dict[str, Spoil] = {
    "cut": lambda manager, ada, _: of(manager, ada)[:-2],
    "flipped": lambda manager, ada, _: of(manager, ada)[:-1] + ("0" if of(manager, ada)[-1] != "0" else "1"),
    "garbage": lambda manager, ada, _: f"{of(manager, ada)[:57]}zz",
    "of another column": lambda manager, *_: manager.database.sealing.seal(
        "ada@example.com", Place("users", "name"), index_key_id="i1"
    ),
    "with another row's digest": lambda manager, ada, bob: f"{of(manager, bob)[:50]}{of(manager, ada)[50:]}",
    "with another key of the same id": lambda *_: Sealing(
        None, Keyring(["k1"], lambda _: b"x" * 32), keyring("i1")
    ).seal("ada@example.com", PLACE, index_key_id="i1"),
}


def of(manager: DatabaseManager, user: User) -> str:
    param = manager.database.param
    row = manager.database.execute_sql(f"SELECT email FROM users WHERE id = {param}", (user.id,)).fetchone()
    return str(row[0])


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_spoilt_value_in_the_table_is_refused_and_none_is_shown(encrypted: DatabaseManager, spoil: str) -> None:
    ada, bob = (User.create(name="x", email=f"{name}@example.com") for name in ("ada", "bob"))
    value = SPOILT[spoil](encrypted, ada, bob)
    bob.delete_instance()
    store(encrypted, ada, value)
    for read in (lambda: User.get_by_id(ada.id), lambda: list(User.select()), lambda: list(User.select().tuples())):
        with pytest.raises(DecryptionError, match=r"a value of users\.email cannot be decrypted") as caught:
            read()
        assert "ada@" not in told(caught.value)
        assert value[7:] not in told(caught.value)
        assert (caught.value.column, caught.value.key_id) == ("users.email", None if spoil == "garbage" else "k1")


def test_a_key_that_is_missing_is_named(encrypted: DatabaseManager, url: str) -> None:
    User.create(name="Ada", email="ada@example.com")
    encrypted.close()
    with keyed(url, keys=("k9",)) as manager:
        with pytest.raises(ConfigurationError, match="has no key k1, with which a value is sealed; it has k9: put"):
            list(User.select())
        assert User.select(User.name).scalar() == "Ada"
    with keyed(url, index_keys=("i9",)) as manager:
        with pytest.raises(ConfigurationError, match="has no key i1"):
            User.create(name="Bob", email="bob@example.com")
        with pytest.raises(ConfigurationError, match="has no key i1"):
            User.get_or_none(email="ada@example.com")
        assert stored(manager)[0].startswith(PREFIX)
