"""Connections that end: what the caller is told, and that it works again as soon as the server does."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest
from chaos.proxy import CuttingProxy
from chaos.server import CrashServer, Restart
from fixtures.databases import Open
from fixtures.fault_table import NAME, Fault
from fixtures.server_processes import backend_pid, terminate
from fixtures.servers import BOTH_VERSIONS
from fixtures.waiting import wait_until

from presgen import CommitUnknown, DatabaseManager, DatabaseUnavailable, User

pytestmark = BOTH_VERSIONS
THREADS = 8
TERMINATIONS = 600


@pytest.mark.fault("idle connection terminated")
def test_a_terminated_idle_connection_is_not_handed_out(server: CrashServer, opened: Open, fault: Fault) -> None:
    manager = opened()
    with manager.session():
        first = backend_pid(manager)
    terminate(server.url, first)
    with manager.session():
        assert User.create(name=NAME)
        assert backend_pid(manager) != first
    fault.add("nothing: a fresh connection")
    fault.works_again(manager)
    fault.loses_no_slot(manager)
    assert manager.pool_stats().items() >= {"idle": 1, "dead": 1}.items()


@pytest.mark.fault("killed while checked out")
def test_a_connection_lost_in_hand_is_replaced_at_the_next_call(
    server: CrashServer, opened: Open, fault: Fault
) -> None:
    manager = opened()
    with manager.session():
        first = backend_pid(manager)
        terminate(server.url, first)
        with fault.tells(DatabaseUnavailable, retryable=True, match="nothing uncommitted was kept"):
            User.create(name=NAME)
        fault.works_again(manager)
        assert backend_pid(manager) != first
    fault.loses_no_slot(manager)
    assert User.select().count() == 0


@pytest.mark.fault("killed while checked out")
def test_a_connection_lost_before_a_transaction_is_replaced(server: CrashServer, opened: Open, fault: Fault) -> None:
    manager = opened()
    with manager.session():
        terminate(server.url, backend_pid(manager))
        with fault.tells(DatabaseUnavailable, retryable=True), manager.transaction():
            raise AssertionError("BEGIN should have failed")
        fault.works_again(manager)
        with manager.transaction():
            User.create(name=NAME)
    fault.loses_no_slot(manager)


@pytest.mark.fault("killed inside atomic")
def test_a_connection_lost_in_a_transaction_tells_the_cause(server: CrashServer, opened: Open, fault: Fault) -> None:
    manager = opened()
    outer, inner = manager.transaction(), manager.transaction()
    with fault.tells(DatabaseUnavailable, retryable=True, match="was lost"), outer, inner:
        terminate(server.url, backend_pid(manager))
        User.create(name=NAME)
    fault.works_again(manager)
    with manager.session():
        with pytest.raises(DatabaseUnavailable), manager.transaction():
            terminate(server.url, backend_pid(manager))
            User.create(name=NAME)
        assert backend_pid(manager)  # on a fresh connection
    with pytest.raises(ZeroDivisionError), manager.transaction(), manager.transaction():
        terminate(server.url, backend_pid(manager))
        raise ZeroDivisionError
    fault.works_again(manager)
    fault.loses_no_slot(manager)
    assert User.select().count() == 0


@pytest.mark.fault("COMMIT lost before it was applied")
def test_a_connection_lost_at_commit_is_unknown(server: CrashServer, opened: Open, fault: Fault) -> None:
    manager = opened()
    with fault.tells(CommitUnknown, retryable=False, match="read the rows again"), manager.transaction():
        User.create(name=NAME)
        terminate(server.url, backend_pid(manager))
    fault.works_again(manager)
    fault.loses_no_slot(manager)
    assert User.select().count() == 0


@pytest.mark.fault("COMMIT lost before it was applied")
def test_a_commit_that_never_arrived_is_repeated(
    server: CrashServer, opened: Open, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = opened()
    pids: list[int] = []
    commit = manager.database.commit

    def commit_too_late() -> None:
        if len(pids) == 1:
            terminate(server.url, *pids)
        commit()

    def work() -> None:
        User.create(name=NAME)
        pids.append(backend_pid(manager))

    monkeypatch.setattr(manager.database, "commit", commit_too_late)
    manager.run_in_transaction(work)
    assert (len(pids), User.select().count()) == (2, 1)
    fault.add("run_in_transaction repeats it")
    fault.works_again(manager)
    fault.loses_no_slot(manager)


@pytest.mark.fault("COMMIT lost after it was applied")
def test_a_commit_whose_reply_is_lost_is_unknown(
    server: CrashServer, proxy: CuttingProxy, opened: Open, fault: Fault
) -> None:
    manager = opened(proxy.url_of(server.database))
    proxy.order("COMMIT")
    with fault.tells(CommitUnknown, retryable=False, match="read the rows again"), manager.transaction():
        User.create(name=NAME)
    fault.works_again(manager)
    proxy.order("COMMIT")
    manager.run_in_transaction(lambda: User.create(name=NAME))
    fault.add("run_in_transaction does not repeat it")
    fault.works_again(manager)
    fault.loses_no_slot(manager)
    assert (User.select().count(), proxy.cuts["COMMIT"]) == (2, 2)
    manager.close()


class Crew:
    """Threads that write one row after the other, and keep what became of each."""

    def __init__(self, manager: DatabaseManager, fault: Fault) -> None:
        self._manager = manager
        self._fault = fault
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(THREADS)]
        self.succeeded_at = [0.0] * THREADS
        self.written: Counter[int] = Counter()
        self.unknown: Counter[int] = Counter()
        self.surprises: list[BaseException] = []

    def __enter__(self) -> Crew:
        for thread in self._threads:
            thread.start()
        self.seconds_until_all_succeed()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)
        assert self.surprises == []

    def seconds_until_all_succeed(self) -> float:
        """Waits until each thread has written a row after this moment."""
        began = time.monotonic()
        wait_until(lambda: self.surprises or min(self.succeeded_at) > began)
        return max(self.succeeded_at) - began

    def _write(self, number: int) -> None:
        while not self._is_over.is_set():
            try:
                with self._manager.session(), self._manager.transaction():
                    User.create(name=NAME)
                    User.create(name=NAME)
            except (DatabaseUnavailable, CommitUnknown) as error:
                self._fault.note(error)
                self.unknown[number] += type(error) is CommitUnknown
            except BaseException as error:
                self.surprises.append(error)
                return
            else:
                self.written[number] += 1
                self.succeeded_at[number] = time.monotonic()

    def check_rows(self) -> None:
        """Every transaction is stored as a whole, and every one that was told to be."""
        rows = User.select().count()
        assert rows % 2 == 0
        assert 0 <= rows // 2 - self.written.total() <= self.unknown.total()


@pytest.mark.fault("restart under 8 threads")
@pytest.mark.parametrize("kind", [Restart.FAST, Restart.IMMEDIATE, Restart.KILL])
def test_threads_work_again_as_soon_as_the_server_does(
    server: CrashServer, opened: Open, fault: Fault, kind: Restart
) -> None:
    fault.server += f", {kind}"
    manager = opened(pool_size=THREADS, statement_timeout=10)
    with Crew(manager, fault) as crew:
        server.restart(kind)
        fault.succeeded_after(crew.seconds_until_all_succeed())
    fault.loses_no_slot(manager)
    crew.check_rows()
    assert not [error for error in fault.errors if "DETAIL" in str(error)]


@pytest.mark.fault("600 terminations in a storm")
def test_a_storm_of_terminations_loses_no_row_and_no_slot(server: CrashServer, opened: Open, fault: Fault) -> None:
    chance, ended = random.Random(1), 0
    manager = opened(pool_size=THREADS, statement_timeout=10)
    with Crew(manager, fault) as crew:
        while ended < TERMINATIONS and not crew.surprises:
            clients = server.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'presentation-generator'")
            for (pid,) in chance.sample(clients, k=min(3, len(clients))):
                ended += server.query("SELECT pg_terminate_backend(%s)", (pid,)) == [(True,)]
        fault.succeeded_after(crew.seconds_until_all_succeed())
    fault.loses_no_slot(manager)
    crew.check_rows()
