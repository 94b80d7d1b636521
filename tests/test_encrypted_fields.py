"""EncryptedText and BlindIndex on a model of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import peewee as pw
import pytest
from fixtures.effort import settings_for
from fixtures.encrypted import keyed
from hypothesis import given
from hypothesis import strategies as st

from presgen import DatabaseManager
from presgen.errors import ConfigurationError, ConstraintViolation, DecryptionError, ValidationError
from presgen.ext import encryption
from presgen.ext.encryption import BlindIndex, EncryptedText
from presgen.fields import IdField, VarcharField
from presgen.models.base import BaseModel


class Patient(BaseModel):
    id = IdField()
    name = VarcharField(max_length=50)
    number = EncryptedText(blind_index=True, null=True)
    note = EncryptedText(null=True)

    class Meta:
        table_name = "patients"


Patient.add_index(BlindIndex(Patient.number, unique=True))


class Secret(pw.Model):
    """One of peewee's own."""

    text = EncryptedText(blind_index=True)


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    with keyed(url) as manager:
        bind(manager)
        manager.database.create_tables([Patient, Secret])
        yield manager
    for model in (Patient, Secret):
        model.bind(None)


def bind(manager: DatabaseManager) -> None:
    for model in (Patient, Secret):
        model.bind(manager.database)


def raw(manager: DatabaseManager, column: str = "note") -> list[str | None]:
    return [row[0] for row in manager.database.execute_sql(f"SELECT {column} FROM patients ORDER BY id").fetchall()]


def test_texts_are_sealed_and_found_by_equal_ones(db: DatabaseManager) -> None:
    ada = Patient.create(name="Ada", number="A 1", note="likes tea")
    Patient.create(name="Bob")
    Secret.create(text="x")
    assert (Patient.get(number="A 1").note, Secret.get(text="x").text) == ("likes tea", "x")
    assert Patient.get(Patient.note.is_null(False)).id == ada.id
    assert "tea" not in str(raw(db))
    assert "A 1" not in str(raw(db, "number"))
    assert Patient.get_or_none(number="a 1") is None
    with pytest.raises(ValidationError, match="note is encrypted: .* it has no blind index"):
        Patient.get(note="likes tea")
    with pytest.raises(ValidationError, match="number is encrypted"):
        list(Patient.select().order_by(Patient.number))


def test_a_unique_blind_index_keeps_texts_unique(db: DatabaseManager) -> None:
    Patient.create(name="Ada", number="1")
    with pytest.raises(ConstraintViolation) as caught:
        Patient.create(name="Bob", number="1")
    assert caught.value.constraint == "idx_patients_number"
    Patient.create(name="Bob")
    Patient.create(name="Eve")


def test_values_are_bound_to_their_column(db: DatabaseManager) -> None:
    Patient.create(name="Ada", number="1", note="2")
    db.database.execute_sql("UPDATE patients SET note = number")
    with pytest.raises(DecryptionError, match=r"a value of patients\.note cannot be decrypted with the key k1"):
        Patient.get()
    db.database.execute_sql("UPDATE patients SET note = 'in clear'")
    with pytest.raises(DecryptionError, match=r"a value of patients\.note cannot be decrypted: "):
        Patient.get()


def test_a_column_with_plain_values_is_sealed_by_rotating_it(db: DatabaseManager, url: str) -> None:
    Patient.insert_many([{"name": "x"}] * 20).execute()
    db.database.execute_sql("DROP INDEX idx_patients_number")  # values in clear have no digests
    db.database.execute_sql("UPDATE patients SET note = 'note ' || id, number = id")
    told: list[tuple[int, int]] = []
    fields = [Patient.note, Patient.number]
    assert encryption.rotate(db, fields=fields, batch=7, progress=lambda *counts: told.append(counts)) == 40
    assert told == [(7, 20), (14, 20), (20, 20)] * 2
    Patient._schema.create_indexes()
    assert Patient.get(number="7").note == "note 7"
    db.close()
    with keyed(url, keys=("k2", "k1"), index_keys=("i2", "i1")) as manager:
        bind(manager)
        assert Patient.get(number="7").note == "note 7"
        assert (encryption.rotate(manager, fields=fields), encryption.key_ids(manager, fields=fields)) == (
            40,
            {"k2": 40},
        )
    with keyed(url, keys=("k2",), index_keys=("i2",)) as manager:
        bind(manager)
        assert [Patient.get(number=f"{number}").note for number in (1, 20)] == ["note 1", "note 20"]


def test_texts_without_a_blind_index_need_no_index_key(db: DatabaseManager, url: str) -> None:
    db.close()
    with keyed(url, index_keys=()) as manager:
        bind(manager)
        assert Patient.get_by_id(Patient.create(name="Ada", note="x").id).note == "x"
        with pytest.raises(ConfigurationError, match="DATABASE_INDEX_KEYS is not set"):
            Patient.create(name="Ada", number="1")


def test_a_database_without_keys_is_refused(db: DatabaseManager, url: str) -> None:
    db.close()
    with DatabaseManager(url) as manager:
        bind(manager)
        with pytest.raises(ConfigurationError, match="DATABASE_ENCRYPTION_KEYS is not set"):
            Patient.create(name="Ada", note="x")
    Secret.bind(pw.SqliteDatabase(":memory:"))
    with pytest.raises(ConfigurationError, match="bind its model to a manager's database, which has the keys"):
        Secret.create(text="x")


def test_what_cannot_be_meant_is_refused(db: DatabaseManager) -> None:
    with pytest.raises(ConfigurationError, match="a BlindIndex needs a field with blind_index=True"):
        BlindIndex(Patient.note)
    for option in ("unique", "index"):
        with pytest.raises(ConfigurationError, match=r"add_index\(BlindIndex\(field, unique=True\)\)"):
            EncryptedText(**{option: True})
    with pytest.raises(ConfigurationError, match="'name' is not encrypted in this database"):
        encryption.rotate(db, fields=[Patient.name])
    with pytest.raises(ConfigurationError, match="'email' is not encrypted .* presgen install encryption"):
        encryption.rotate(db)


def test_a_rotation_is_of_the_managers_own_database(db: DatabaseManager, url: str) -> None:
    other = keyed(url)
    with pytest.raises(ConfigurationError, match=r"patients\.note is bound to another database than this manager's"):
        encryption.rotate(other, fields=[Patient.note])
    other.close()


def test_every_text_that_is_accepted_reads_back(db: DatabaseManager) -> None:
    with db.session():
        patient = Patient.create(name="Ada")

        @settings_for(short=60, full=2000)
        @given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=99))
        def check(text: str) -> None:
            if text.strip():
                patient.note = patient.number = text
                patient.save()
                found = Patient.get(number=text)
                assert (found.note, found.number) == (text, text)

        check()
