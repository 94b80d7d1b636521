"""The address appears in no statement, log, error or dump; what shows it is the model alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from fixtures.canary import CANARY, MAIL, told
from fixtures.encrypted import keyring, store

from presgen import DatabaseConfig, DatabaseManager, PresgenError, User
from presgen.clock import is_sqlite
from presgen.errors import ConstraintViolation


def uses() -> list[Callable[[], Any]]:
    return [
        lambda: User.create(name="x", email=MAIL),
        lambda: User.create(name="y", email=MAIL),
        lambda: User.insert_many([{"name": "y", "email": MAIL}]).execute(),
        lambda: User.get(email=MAIL),
        lambda: User.get(User.email.in_([MAIL])),
        lambda: list(User.select().where(User.email.contains(CANARY))),
        lambda: list(User.select().where(User.email < MAIL)),
        lambda: User.update(email=f"x{MAIL}").where(User.email == MAIL).execute(),
        lambda: User.get(email=f"nobody{MAIL}"),
        lambda: User.create(name="x", email=f"{MAIL}@"),
    ]


@pytest.mark.usefixtures("encrypted")
def test_no_statement_no_log_and_no_error_has_an_address(url: str, caplog: pytest.LogCaptureFixture) -> None:
    config = DatabaseConfig(
        url, debug=True, slow_query_seconds=0, encryption_keys=keyring("k1"), index_keys=keyring("i1")
    )
    caplog.set_level(logging.DEBUG)
    sent: list[str] = []
    with DatabaseManager(config) as manager:
        manager.database.query_hooks.append(lambda event: sent.append(f"{event.sql} {event.params!r}"))
        errors: list[BaseException] = []
        for use in uses():
            with suppress(User.DoesNotExist):
                try:
                    use()
                except PresgenError as error:
                    errors.append(error)
        assert [type(error) for error in errors[:2]] == [ConstraintViolation] * 2
        assert len(errors) == 5
        assert sent
        assert caplog.messages
        assert CANARY not in "".join(map(told, errors)) + "".join(sent) + caplog.text
        assert User.get().email == f"x{MAIL}"


def test_installing_sends_no_address_to_a_server(url: str, postgresql: str) -> None:
    config = DatabaseConfig(url, encryption_keys=keyring("k1"), index_keys=keyring("i1"))
    with DatabaseManager(config) as manager:
        User.create(name="x", email=MAIL)
        sent: list[str] = []
        manager.database.query_hooks.append(lambda event: sent.append(f"{event.sql} {event.params!r}"))
        manager.install("encryption")
        assert User.get().email == MAIL
    assert CANARY not in "".join(sent)


def test_a_value_that_cannot_be_decrypted_is_not_shown(encrypted: DatabaseManager) -> None:
    user = User.create(name="x", email=MAIL)
    sealed = encrypted.database.sealing.seal(MAIL, User.email.place, index_key_id="i1")
    store(encrypted, user, sealed[:-2])
    with pytest.raises(PresgenError) as caught:
        User.get_by_id(user.id)
    assert CANARY not in told(caught.value)
    assert sealed[60:80] not in told(caught.value)


def test_no_dump_and_no_file_has_an_address(encrypted: DatabaseManager) -> None:
    User.create(name="x", email=MAIL)
    if is_sqlite(encrypted.database):
        dump = "\n".join(encrypted.database.connection().iterdump())
    else:
        # What pg_dump prints of a table is what COPY gives.
        rows = encrypted.database.execute_sql("SELECT users::text FROM users").fetchall()
        rows += encrypted.database.execute_sql(
            "SELECT pg_stats::text FROM pg_stats WHERE tablename = 'users'"
        ).fetchall()
        dump = str(rows)
    assert "enc@@1:" in dump
    assert CANARY not in dump


def test_the_model_shows_the_address_as_the_specification_writes_it(encrypted: DatabaseManager) -> None:
    assert MAIL in repr(User.create(name="x", email=MAIL))
