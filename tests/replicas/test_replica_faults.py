"""Replicas die, fall behind, are promoted and come back while four threads read: no reader notices."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from click.testing import CliRunner
from fixtures.replicas import Cluster
from fixtures.waiting import wait_until

from presgen import DatabaseConfig, DatabaseManager, User
from presgen.cli import cli
from presgen.embedded import EmbeddedServer
from presgen.errors import ConfigurationError
from presgen.ext.replicas import create_standby


class Readers:
    """Four threads that write, read what they have written, and count."""

    def __init__(self, manager: DatabaseManager) -> None:
        self.manager = manager
        self.read = 0
        self.errors: list[BaseException] = []
        self.over = threading.Event()

    def work(self, name: str) -> None:
        mine = User.create(name=name)
        number = 0
        while not self.over.is_set():
            number += 1
            try:
                with self.manager.writing():
                    User.update(name=f"{name} {number}").where(User.id == mine.id).execute()
                with self.manager.reading():
                    assert User.get_by_id(mine.id).name == f"{name} {number}"
            except BaseException as error:
                self.errors.append(error)
                return
            self.read += 1

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let them work for the block, and on until each has read some more; nobody may have had an error."""
        threads = [threading.Thread(target=self.work, args=(f"reader {number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            self.reads_on()
            yield
            self.reads_on()
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
        assert self.errors == []

    def reads_on(self) -> None:
        before = self.read
        wait_until(lambda: self.read > before + 100 or bool(self.errors))
        assert self.errors == []


def usable(manager: DatabaseManager) -> list[bool]:
    return [found["usable"] for found in manager.database.replicas.look().values()]


def reads(manager: DatabaseManager) -> int:
    return sum(found["reads"] for found in manager.database.replicas.look().values())


def is_read_from_again(manager: DatabaseManager, readers: Readers) -> None:
    """Wait until the replica answers again."""
    wait_until(lambda: usable(manager) == [True])
    before = reads(manager)
    wait_until(lambda: reads(manager) > before + 20 or bool(readers.errors))


def test_a_replica_that_is_killed_is_left_out_and_comes_back(pair: Cluster) -> None:
    (standby,) = pair.standbys
    with DatabaseManager(pair.config(connect_timeout=2)) as manager:
        readers = Readers(manager)
        with readers.at_work():
            is_read_from_again(manager, readers)
            os.kill(int((standby.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            wait_until(lambda: usable(manager) == [False])
            readers.reads_on()
            wait_until(lambda: not standby.is_running())
            with EmbeddedServer(standby.folder):
                is_read_from_again(manager, readers)


def test_a_replica_that_falls_behind_is_left_out_until_it_has_caught_up(pair: Cluster) -> None:
    (standby,) = pair.standbys
    config = pair.config(replica_max_lag=1.0)
    with DatabaseManager(config) as manager, closing(psycopg2.connect(standby.url)) as other:
        other.autocommit = True
        readers = Readers(manager)
        with readers.at_work():
            is_read_from_again(manager, readers)
            other.cursor().execute("SELECT pg_wal_replay_pause()")
            wait_until(lambda: usable(manager) == [False])
            (found,) = manager.database.replicas.look().values()
            assert found["lag_seconds"] > 1.0
            readers.reads_on()
            other.cursor().execute("SELECT pg_wal_replay_resume()")
            is_read_from_again(manager, readers)


def test_a_replica_that_is_promoted_is_asked_no_more(pair: Cluster) -> None:
    (standby,) = pair.standbys
    with DatabaseManager(pair.config()) as manager:
        readers = Readers(manager)
        with readers.at_work():
            is_read_from_again(manager, readers)
            standby._run("pg_ctl", "-D", standby.data, "-w", "promote")
            wait_until(lambda: usable(manager) == [False])
            before = reads(manager)
            readers.reads_on()
            assert reads(manager) == before


def test_replicas_answer_while_there_is_no_primary(pair: Cluster) -> None:
    with DatabaseManager(pair.config(connect_timeout=2)) as manager:
        with manager.writing():
            User.create(name="Ada")
        with manager.reading():
            wait_until(lambda: usable(manager) == [True])
            wait_until(lambda: User.select().count() == 1 and reads(manager) > 0)
            pair.primary._run("pg_ctl", "-D", pair.primary.data, "-m", "immediate", "-w", "stop")
            before = reads(manager)
            assert [User.get().name for _ in range(20)] == ["Ada"] * 20
            assert reads(manager) == before + 20


def test_a_replica_that_was_never_there_costs_no_more_than_its_first_look() -> None:
    nowhere = "postgresql://postgres@127.0.0.1:1/presgen"
    with DatabaseManager(DatabaseConfig("postgresql://postgres@127.0.0.1:1/x", replica_urls=(nowhere,))) as manager:
        assert usable(manager) == [False]


def test_the_command_makes_a_replica_that_follows(
    tmp_path: Path, pair: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pair.primary.folder.with_name("another")
    words = ("--database", pair.primary.url, "replica")
    made = CliRunner().invoke(cli, (*words, "create", str(folder)))
    assert (made.exit_code, made.stdout) == (0, f"export DATABASE_REPLICA_URLS=embedded:///{folder}\n")
    assert CliRunner().invoke(cli, (*words, "status")).exit_code == 1
    monkeypatch.setenv("DATABASE_REPLICA_URLS", f"embedded:///{folder}")
    shown = CliRunner().invoke(cli, (*words, "status"))
    assert (shown.exit_code, "yes" in shown.stdout) == (0, True)
    refused = CliRunner().invoke(cli, (*words, "create", str(folder)))
    assert (refused.exit_code, "is not empty: a replica needs a folder of its own" in refused.stderr) == (1, True)
    with DatabaseManager(pair.config()) as manager, pytest.raises(ConfigurationError, match="is not empty"):
        create_standby(manager.database, folder)
