"""One address is stored once, however it is spelled; a document reads back equal; NULL fits everywhere."""

from __future__ import annotations

import json
import unicodedata
from datetime import datetime, timezone, tzinfo
from typing import Any

import pytest
from fixtures.effort import settings_for
from hostile_values import BrokenZone, Colour, OddZone, Word, nested
from hypothesis import given
from hypothesis import strategies as st
from three_backends import FIRST, SECOND, Backends
from ways_of_writing import FIELDS

from presgen import DatabaseManager, PresentationJob, User, ValidationError, VoiceClone
from presgen.errors import ConstraintViolation
from presgen.validation import DOCUMENT_MAX_DEPTH, email

# In each line one address.
SPELLINGS = [
    ("ada@x.com", "ADA@X.COM", "Ada@x.COM"),
    ("é@x.com", "É@x.com", "e\u0301@x.com", "E\u0301@x.com"),
    ("i\u0307@x.com", "İ@x.com", "I\u0307@x.com"),
    ("ǰ@x.com", "j\u030c@x.com", "J\u030c@x.com"),  # there is no capital that is one character
    ("ẖ@x.com", "H\u0331@x.com"),
    ("σ@x.com", "Σ@x.com"),
    ("οδός@x.com", "ΟΔΌΣ@x.com"),  # in lower case the last sigma is a final one
    ("k@x.com", "\u212a@x.com"),  # the sign of Kelvin
    ("a@bücher.de", "a@BÜCHER.de", "a@bu\u0308cher.de", "a@xn--bcher-kva.de", "A@XN--BCHER-KVA.DE"),
    ("a@faß.de", "a@xn--fa-hia.de"),
    ("a@ασ.gr", "a@ΑΣ.gr", "a@xn--mxa0b.gr"),
]
# In each line different ones, though some would fold them into one.
DIFFERENT = [("ß@x.com", "ss@x.com"), ("a@faß.de", "a@fass.de"), ("a@ας.gr", "a@ασ.gr"), ("ı@x.com", "i@x.com"), ("ﬁ@x.com", "fi@x.com"),
             ("ς@x.com", "σ@x.com"), ("é@x.com", "e@x.com")]  # fmt: skip


def test_an_address_is_stored_once_however_it_is_spelled(db: DatabaseManager) -> None:
    for spellings in SPELLINGS:
        for spelling in spellings:
            stored = User.create(name="Ada", email=spelling)
            assert stored.email == spellings[0] == User.get_by_id(stored.id).email
            assert [User.get(User.email == other) for other in spellings] == [stored] * len(spellings)
            for other in spellings:
                with pytest.raises(ConstraintViolation) as caught:
                    User.insert(name="Eve", email=other).execute()
                assert caught.value.constraint == "idx_users_email"
            stored.delete_instance()


def test_different_addresses_stay_apart(db: DatabaseManager) -> None:
    for pair in DIFFERENT:
        users = [User.create(name="Ada", email=address) for address in pair]
        assert [user.email for user in users] == list(pair)
        assert [User.get(User.email == address) for address in pair] == users
        User.delete().execute()


def test_a_part_of_an_address_finds_it_in_any_case(db: DatabaseManager) -> None:
    user = User.create(name="Ada", email="E\u0301va@BÜCHER.de")
    for part in ("Év", "E\u0301V", "@bü", "@BÜ", "BU\u0308CHER"):
        assert list(User.select().where(User.email.contains(part))) == [user], part


@settings_for(short=150, full=20_000)
@given(
    st.text(st.characters(categories=("L", "M", "N")), min_size=1, max_size=8), st.sampled_from(("x.com", "BÜCHER.de"))
)
def test_the_normal_form_of_an_address_is_final(local: str, domain: str) -> None:
    try:
        address = email(f"{local}@{domain}")
    except ValidationError:
        return
    assert address == email(address) == address.lower() == unicodedata.normalize("NFC", address)
    for spelling in (unicodedata.normalize("NFD", f"{local}@{domain}"), f"{local.lower()}@{domain}"):
        assert email(spelling) == address


def test_the_check_of_the_database_accepts_every_normal_form(backends: Backends) -> None:
    letters = {chr(code) for code in range(0x80, 0x1_F000) if chr(code).isalpha()}
    forms = sorted({unicodedata.normalize("NFC", unicodedata.normalize("NFC", letter).lower()) for letter in letters})
    for name in backends.managers:
        with backends.bound(name) as database:
            as_stored = [f"{''.join(forms[start : start + 60])}@x" for start in range(0, len(forms), 60)]
            values = ", ".join(["(?)" if name == "sqlite" else "(%s)"] * len(as_stored))
            broken = f"SELECT count(*) FROM (VALUES {values}) AS given WHERE column1 <> lower(column1)"
            assert database.execute_sql(broken, as_stored).fetchone() == (0,), name


DOCUMENTS: list[Any] = [
    1e16, 1e22, 1e23, -1e23, 1e308, 5e-324, 9007199254740993, 2**200, [[1.0, 1e300], {"a": 1e17}], nested(DOCUMENT_MAX_DEPTH),
    nested(DOCUMENT_MAX_DEPTH, key="k"), {"e+": "1e+20", "": [{}, [], ""]}, ["1e+16"],
]  # fmt: skip


def test_a_document_reads_back_equal(db: DatabaseManager, job: PresentationJob) -> None:
    for document in DOCUMENTS:
        job.checkpoint = document
        job.save()
        stored = PresentationJob.get_by_id(job.id).checkpoint
        assert stored == document == job.checkpoint
        assert json.dumps(stored, sort_keys=True) == json.dumps(job.checkpoint, sort_keys=True)  # 1 is no 1.0 here


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("depth", [DOCUMENT_MAX_DEPTH + 1, 300, 5_000, 100_000])
def test_a_document_that_is_nested_too_deep_is_refused(depth: int, key: str | None) -> None:
    with pytest.raises(ValidationError) as caught:
        PresentationJob.checkpoint.clean(nested(depth, key=key))
    assert caught.value.rule in ("depth", "json")


def test_a_document_is_compared_as_it_would_be_stored(db: DatabaseManager, job: PresentationJob) -> None:
    job.checkpoint = {"a": 1e16}
    job.save()
    assert list(PresentationJob.select().where(PresentationJob.checkpoint == {"a": 1e16})) == [job]
    with pytest.raises(ValidationError, match="^checkpoint must be nested at most 100 deep$"):
        list(PresentationJob.select().where(PresentationJob.checkpoint == nested(DOCUMENT_MAX_DEPTH + 1)))


def test_text_of_a_class_of_its_own_is_stored_as_its_text(db: DatabaseManager, user: User, voice: VoiceClone) -> None:
    row = {"owner": user, "voice_clone": voice, "s3_pptx_path": Colour.RED, "idempotency_key": Word("word")}
    PresentationJob.enqueue_many([row])
    (job,) = PresentationJob.select()
    assert (job.s3_pptx_path, job.idempotency_key) == ("/red.wav", "word")
    created = User.create(name=Word("word"), email=Colour.MAIL)
    assert type(created.name) is type(created.email) is str
    assert User.get(User.email == Colour.MAIL) == created


@pytest.mark.parametrize("zone", [BrokenZone(), OddZone()])
def test_a_moment_without_a_place_in_utc_is_refused(zone: tzinfo) -> None:
    with pytest.raises(ValidationError) as caught:
        PresentationJob.run_at.clean(datetime.max.replace(tzinfo=zone))
    assert (caught.value.field, caught.value.rule) == ("run_at", "range")


NULLABLE = [field for field in FIELDS if field.null]
MOMENT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)


@pytest.mark.parametrize("field", NULLABLE, ids=str)
def test_bulk_update_writes_nothing_but_null(backends: Backends, field: Any) -> None:
    assert backends.outcome(lambda: bulk_update(field, [None, None])).stored in ([None, None], None)


@pytest.mark.parametrize("name", ["created_at", "run_at", "deleted_at"])
def test_bulk_update_writes_moments(backends: Backends, name: str) -> None:
    field = PresentationJob._meta.fields[name]
    assert backends.outcome(lambda: bulk_update(field, [MOMENT, MOMENT])).stored == [MOMENT, MOMENT]


def bulk_update(field: Any, values: list[Any]) -> Any:
    rows = list(field.model.select().where(field.model.id << (FIRST, SECOND)).order_by(field.model.id))

    def call() -> Any:
        for row, value in zip(rows, values, strict=True):
            setattr(row, field.name, value)
        field.model.bulk_update(rows, [field])
        return lambda: [getattr(field.model.get_by_id(row.id), field.name) for row in rows]

    return call


def test_bulk_update_goes_in_batches_and_counts_all(db: DatabaseManager, statements: list[str]) -> None:
    users = [User.create(name="Ada") for _ in range(5)]
    for number, user in enumerate(users):
        user.name = f"Ada {number}"
    statements.clear()
    assert User.bulk_update(users, ["name"], batch_size=2) == 5
    assert len(statements) == 3
    assert [user.name for user in User.select().order_by(User.id)] == [f"Ada {number}" for number in range(5)]
    assert User.bulk_update([], ["name"]) == 0


@pytest.mark.parametrize(("number", "rule"), [(None, "required"), ("1", "type"), (2**63, "range")])
def test_bulk_update_refuses_a_row_without_a_proper_id(
    db: DatabaseManager, statements: list[str], number: Any, rule: str
) -> None:
    statements.clear()
    with pytest.raises(ValidationError) as caught:
        User.bulk_update([User(id=number, name="Ada")], ["name"])
    assert (caught.value.field, caught.value.rule) == ("id", rule)
    assert statements == []
