"""Users are found, written and kept unique by their addresses as before; what a database cannot do with them is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peewee as pw
import pytest
from fixtures.effort import settings_for
from fixtures.encrypted import stored
from hypothesis import given
from hypothesis import strategies as st

from presgen import DatabaseManager, User
from presgen.clock import is_sqlite
from presgen.errors import ConstraintViolation, ValidationError
from presgen.sealing import is_sealed
from presgen.validation import email

ADA, BOB = "ada@example.com", "bob@example.com"


@pytest.fixture
def ada(encrypted: DatabaseManager) -> User:
    User.create(name="Nobody")
    User.create(name="Bob", email=BOB)
    return User.create(name="Ada", email=ADA)


FINDS: dict[str, Callable[[], Any]] = {
    "==": lambda: User.get(User.email == ADA),
    "however it is written": lambda: User.get(User.email == "ADA@Example.com"),
    "as a Value": lambda: User.get(User.email == pw.Value(ADA)),
    "get by name": lambda: User.get(email=ADA),
    "get_or_none": lambda: User.get_or_none(email=ADA),
    "get_or_create": lambda: User.get_or_create(email=ADA, defaults={"name": "x"})[0],
    "filter": lambda: User.filter(email=ADA).get(),
    "filter in": lambda: User.filter(email__in=[ADA]).get(),
    "in_": lambda: User.get(User.email.in_([ADA, "nobody@example.com"])),
    "<<": lambda: User.get(User.email << (ADA,)),
    "not_in": lambda: User.get(User.email.not_in([BOB])),
    "!=": lambda: User.get(User.email != BOB),
    "not": lambda: User.get(~(User.email == BOB)),
    "of two": lambda: User.get((User.email == ADA) & (User.name == "Ada")),
    "not null": lambda: User.select().where(User.email.is_null(False)).order_by(User.id.desc()).get(),
    "an alias": lambda: User.get(User.id.in_(_same_as(User.alias()))),
    "a join": lambda: _joined(User.alias()),
}


def _same_as(other: Any) -> Any:
    return other.select(other.id).where(other.email == ADA)


def _joined(other: Any) -> Any:
    return User.select().join(other, on=(User.email == other.email)).where(other.email == ADA).get()


def test_users_are_found_by_equal_addresses(ada: User) -> None:
    for name, find in FINDS.items():
        assert (find().id, find().email) == (ada.id, ADA), name
    assert User.get_or_none(email="other@example.com") is None
    assert User.select().where(User.email.in_([])).count() == 0
    assert User.filter(email=None).get().name == User.get(User.email.is_null()).name == "Nobody"
    assert (User.email == None) is not None  # noqa: E711
    assert User.get(User.email == None).name == "Nobody"  # noqa: E711


WAYS: dict[str, Callable[[], Any]] = {
    "create": lambda: User.create(name="n", email="New@example.com"),
    "save": lambda: _saved(User(name="n", email="new@example.com")),
    "insert": lambda: User.insert(name="n", email="new@example.com").execute(),
    "insert_many": lambda: User.insert_many([("n", "new@example.com")], [User.name, User.email]).execute(),
    "bulk_create": lambda: User.bulk_create([User(name="n", email="new@example.com")]),
    "get_or_create": lambda: User.get_or_create(email="new@example.com", defaults={"name": "n"}),
    "update": lambda: User.update(email="new@example.com").where(User.email == ADA).execute(),
    "bulk_update": lambda: _bulk_updated(),
    "returning": lambda: list(User.insert(name="n", email="new@example.com").returning(User.email).execute()),
    "upsert": lambda: (
        User.insert(name="n", email=ADA)
        .on_conflict(
            conflict_target=["email"], conflict_where=User.email.is_null(False), update={"email": "new@example.com"}
        )
        .execute()
    ),
    "upsert of the new value": lambda: (
        User.insert(id=User.get(email=ADA).id, name="n", email="new@example.com")
        .on_conflict(conflict_target=[User.id], preserve=[User.email])
        .execute()
    ),
}


def _saved(user: User) -> None:
    user.save()


def _bulk_updated() -> None:
    user = User.get(email=ADA)
    user.email = "new@example.com"
    User.bulk_update([user], [User.email])


def test_every_way_of_writing_seals(encrypted: DatabaseManager, ada: User) -> None:
    for name, write in WAYS.items():
        with encrypted.transaction() as transaction:
            write()
            found = User.get(email="new@example.com")
            assert found.email == "new@example.com", name
            assert all(value is None or is_sealed(value) for value in stored(encrypted)), name
            transaction.rollback()


def test_what_was_written_is_returned_in_clear(ada: User) -> None:
    (row,) = User.update(email="a@example.com").where(User.id == ada.id).returning(User.email).execute()
    assert row.email == "a@example.com"
    assert User.select(pw.fn.MAX(User.email)).where(User.email == row.email).scalar() == "a@example.com"


def test_an_address_belongs_to_one_user(ada: User) -> None:
    for write in (
        lambda: User.create(name="x", email="ADA@example.com"),
        lambda: User.insert_many([{"name": "x", "email": ADA}]).execute(),
        lambda: User.update(email=ADA).where(User.email == BOB).execute(),
    ):
        with pytest.raises(ConstraintViolation) as caught:
            write()
        assert caught.value.constraint == "idx_users_email"
    User.insert(name="x", email=ADA).on_conflict(
        conflict_target=[User.email], conflict_where=User.email.is_null(False), update={"name": "Ada L."}
    ).execute()
    User.insert(name="x", email=ADA).on_conflict_ignore().execute()
    assert (User.select().count(), User.get(email=ADA).name) == (3, "Ada L.")


REFUSED: dict[str, Callable[[], Any]] = {
    "order_by": lambda: list(User.select().order_by(User.email)),
    "descending": lambda: list(User.select().order_by(User.id, User.email.desc())),
    "group_by": lambda: list(User.select(User.email).group_by(User.email)),
    "contains": lambda: list(User.select().where(User.email.contains("ada"))),
    "startswith": lambda: list(User.select().where(User.email.startswith("ada"))),
    "endswith": lambda: list(User.select().where(User.email.endswith("ada"))),
    "like": lambda: list(User.select().where(User.email % "ada%")),
    "ilike": lambda: list(User.select().where(User.email ** "ada%")),
    "regexp": lambda: list(User.select().where(User.email.regexp("ada"))),
    "<": lambda: list(User.select().where(User.email < "b")),
    "between": lambda: list(User.select().where(User.email.between("a", "b"))),
    "filter like": lambda: list(User.filter(email__like="a%")),
    "a function": lambda: list(User.select().where(pw.fn.LENGTH(User.email) > 3)),
    "concatenation": lambda: list(User.select().where(User.email + "x" == "y")),
    "another column": lambda: list(User.select().where(User.email == User.name)),
    "a subquery": lambda: list(User.select().where(User.email.in_(User.select(User.name)))),
    "an alias": lambda: list(_containing(User.alias())),
}


def _containing(other: Any) -> Any:
    return other.select().where(other.email.contains("ada"))


def test_what_would_find_nothing_or_mean_nothing_is_refused(encrypted: DatabaseManager, ada: User) -> None:
    for name, query in REFUSED.items():
        with pytest.raises(ValidationError, match="email is encrypted: the database can neither") as caught:
            query()
        assert (caught.value.field, caught.value.rule) == ("email", "encrypted"), name
    encrypted.uninstall("encryption")
    for name, query in REFUSED.items():
        if name != "regexp":  # which SQLite has not
            query()


def test_a_lookup_uses_the_index_and_asks_nothing_more(encrypted: DatabaseManager, ada: User) -> None:
    seen: list[str] = []
    encrypted.database.query_hooks.append(lambda event: seen.append(event.sql))
    for _ in range(3):
        User.get(email=ADA)
    assert len(seen) == 3
    sql, parameters = User.select().where(User.email == ADA).sql()
    if is_sqlite(encrypted.database):
        plan = encrypted.database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
    else:
        encrypted.database.execute_sql("SET enable_seqscan = off")
        plan = encrypted.database.execute_sql(f"EXPLAIN {sql}", parameters).fetchall()
    assert "idx_users_email" in str(plan)


def test_lookup_keys_are_digests_by_each_index_key(encrypted: DatabaseManager, ada: User) -> None:
    assert User.email.lookup_keys("ADA@example.com") == [stored(encrypted)[2][7:50]]
    encrypted.uninstall("encryption")
    assert User.email.lookup_keys("ADA@example.com") == [ADA] == stored(encrypted)[2:3]


def test_every_address_that_is_accepted_reads_back_and_is_found(encrypted: DatabaseManager) -> None:
    with encrypted.session():

        @settings_for(short=60, full=3000)
        @given(address=st.emails(domains=st.sampled_from(["example.com", "bücher.example", "EXAMPLE.org"])))
        def check(address: str) -> None:
            try:
                normal = email(address)
            except ValidationError:
                return
            with encrypted.transaction() as transaction:
                user = User.create(name="x", email=address)
                assert (User.get_by_id(user.id).email, User.get(email=address).id) == (normal, user.id)
                transaction.rollback()

        check()
