"""Rotation while the application works: every row readable at every moment, no duplicates, and the old key is not missed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from click.testing import CliRunner
from fixtures.effort import IS_FULL
from fixtures.encrypted import entry, keyed, spoilt, store, stored

from presgen import DatabaseManager, User
from presgen.cli import cli
from presgen.clock import is_sqlite
from presgen.errors import ConfigurationError, ConstraintViolation, DatabaseBusy, DecryptionError, ValidationError
from presgen.ext import encryption

NEW_THEN_OLD = ("k2", "k1")


def add(count: int) -> None:
    User.insert_many([{"name": "x", "email": f"u{number}@example.com"} for number in range(count)]).execute()


class Application:
    """Four threads that read, look up, change and try to take addresses, until they are told to end."""

    def __init__(self, manager: DatabaseManager, count: int) -> None:
        self.manager, self.count = manager, count
        self.over = threading.Event()
        self.done = dict.fromkeys(("read", "looked up", "changed", "refused"), 0)

    def run(self, what: str, work: Callable[[random.Random], None]) -> None:
        rng = random.Random(what)
        while not self.over.is_set():
            with suppress(DatabaseBusy), self.manager.session():
                work(rng)
                self.done[what] += 1

    def read(self, rng: random.Random) -> None:
        start = rng.randrange(1, self.count)
        for user in User.select().where(User.id.between(start, start + 50)):
            assert user.email.startswith("u")

    def look_up(self, rng: random.Random) -> None:
        """Even ones keep their addresses."""
        number = 2 * rng.randrange(self.count // 2)
        assert User.get(email=f"u{number}@example.com").email == f"u{number}@example.com"

    def change(self, rng: random.Random) -> None:
        """Odd ones get others."""
        number = 2 * rng.randrange(self.count // 2) + 2
        user = User.get_by_id(number)
        user.email = f"u{number - 1}.{rng.randrange(10**9)}@example.com"
        user.save()
        assert User.get(email=user.email).id == number

    def take(self, rng: random.Random) -> None:
        number = 2 * rng.randrange(self.count // 2)
        with pytest.raises(ConstraintViolation) as caught:
            User.create(name="thief", email=f"U{number}@example.com")
        assert caught.value.constraint == "idx_users_email"


def test_rows_are_rotated_while_four_threads_read_and_write(url: str) -> None:
    with keyed(url) as manager:
        count = 400 if is_sqlite(manager.database) and not IS_FULL else 5000
        manager.install("encryption")
        add(count)
    with keyed(url, NEW_THEN_OLD) as manager:
        application = Application(manager, count)
        works = zip(
            application.done, (application.read, application.look_up, application.change, application.take), strict=True
        )
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(application.run, what, work) for what, work in works]
            try:
                written = encryption.rotate(manager, batch=100)
                while not all(application.done.values()) and not any(thread.done() for thread in running):
                    application.over.wait(0.01)
            finally:
                application.over.set()
            for thread in running:
                thread.result()
        assert 0 < written <= count
        assert encryption.key_ids(manager) == {"k2": count}
        values = stored(manager)
        assert len({value[7:50] for value in values}) == count
    with keyed(url, ("k2",)) as manager:
        emails = [user.email for user in User.select()]
        assert (len(emails), len(set(emails))) == (count, count)
        assert {f"u{number}@example.com" for number in range(0, count, 2)} <= set(emails)
        assert User.get(email="u0@example.com").name == "x"


def test_several_rotate_at_once_and_no_row_is_written_twice(url: str) -> None:
    with keyed(url) as manager:
        manager.install("encryption")
        add(600)
    with keyed(url, NEW_THEN_OLD) as manager:
        together = threading.Barrier(3)

        def rotate() -> int:
            together.wait(30)
            return encryption.rotate(manager, batch=50)

        with ThreadPoolExecutor(3) as pool:
            written = [pool.submit(rotate) for _ in range(3)]
        assert sum(future.result() for future in written) == 600
        assert encryption.key_ids(manager) == {"k2": 600}


def test_a_rotation_that_was_broken_off_goes_on_where_it_ended(url: str) -> None:
    with keyed(url) as manager:
        manager.install("encryption")
        add(250)

    def break_off(done: int, _total: int) -> None:
        if done == 200:
            raise KeyboardInterrupt

    with keyed(url, NEW_THEN_OLD) as manager:
        with pytest.raises(KeyboardInterrupt):
            encryption.rotate(manager, batch=100, progress=break_off)
        assert encryption.key_ids(manager) == {"k1": 50, "k2": 200}
        assert User.get(email="u240@example.com").email == "u240@example.com"
        assert (encryption.rotate(manager), encryption.rotate(manager)) == (50, 0)


def test_a_change_between_reading_and_writing_wins(url: str) -> None:
    with keyed(url) as manager:
        manager.install("encryption")
        add(3)
    with keyed(url, NEW_THEN_OLD) as manager:
        column = encryption.rotation.StoredColumn(manager.database, User.email)
        (batch,) = column.batches(10, unlike="x")
        changes = [
            encryption.rotation.Change(
                key, was, manager.database.sealing.seal("late@example.com", User.email.place, index_key_id="i1")
            )
            for key, was in batch[:1]
        ]
        User.update(email="first@example.com").where(User.id == batch[0][0]).execute()
        with manager.transaction():
            assert column.write(changes) == 0
        assert User.get_by_id(batch[0][0]).email == "first@example.com"


def test_rotating_touches_nothing_but_the_ciphertext(url: str) -> None:
    with keyed(url) as manager:
        manager.install("encryption")
        add(5)
        before, digests = list(User.select().order_by(User.id).dicts()), [value[7:50] for value in stored(manager)]
    with keyed(url, NEW_THEN_OLD) as manager:
        assert encryption.rotate(manager) == 5
        assert list(User.select().order_by(User.id).dicts()) == before
        assert [value[7:50] for value in stored(manager)] == digests


def test_what_cannot_be_opened_is_left_as_it_is_and_named_at_the_end(url: str) -> None:
    with keyed(url) as manager:
        manager.install("encryption")
        add(3)
        left = spoilt(stored(manager)[1])
        store(manager, User(id=2), left)
    with keyed(url, NEW_THEN_OLD) as manager:
        with pytest.raises(
            DecryptionError, match=r"users.email cannot be decrypted with the key k1 in the row 2: it was"
        ) as caught:
            encryption.rotate(manager, batch=1)
        assert caught.value.row_ids == (2,)
        assert (stored(manager)[1], encryption.key_ids(manager)) == (left, {"k1": 1, "k2": 2})
        with pytest.raises(DecryptionError, match="with the key k1 in the row 2: "):
            manager.uninstall("encryption")
    with keyed(url, ("k2",)) as manager, pytest.raises(ConfigurationError, match="has no key k1"):
        encryption.rotate(manager)


def test_without_keys_nothing_is_rotated(url: str) -> None:
    with keyed(url) as manager:
        manager.install("encryption")
        add(1)
    with DatabaseManager(url) as manager:
        for use in (encryption.rotate, encryption.verify):
            with pytest.raises(ConfigurationError, match="DATABASE_ENCRYPTION_KEYS is not set"):
                use(manager)


def test_every_row_that_cannot_be_opened_is_found(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("--database", url, "encryption", "verify")
    monkeypatch.setenv("DATABASE_ENCRYPTION_KEYS", entry("k1"))
    monkeypatch.setenv("DATABASE_INDEX_KEYS", entry("i1"))
    with keyed(url) as manager:
        manager.install("encryption")
        add(4)
        assert encryption.verify(manager) == []
        result = CliRunner().invoke(cli, command)
        assert (result.exit_code, result.stdout) == (0, "every value can be decrypted\n")
        for number in (2, 3):
            store(manager, User(id=number), spoilt(stored(manager)[number - 1]))
        assert [(error.row_ids, error.key_id) for error in encryption.verify(manager)] == [((2,), "k1"), ((3,), "k1")]
        result = CliRunner().invoke(cli, command)
        assert (result.exit_code, result.stdout) == (
            1,
            "users.email 2: key k1\nusers.email 3: key k1\n2 values cannot be decrypted\n",
        )


def test_bad_arguments_are_refused(url: str) -> None:
    with keyed(url) as manager:
        with pytest.raises(ConfigurationError, match="'email' is not encrypted"):
            encryption.key_ids(manager)
        manager.install("encryption")
        for batch in (0, "x", None):
            with pytest.raises(ValidationError, match="batch must be"):
                encryption.rotate(manager, batch=batch)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="fields must be an iterable"):
            encryption.rotate(manager, fields=User.email)
