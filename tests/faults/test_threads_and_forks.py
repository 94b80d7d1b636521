"""Threads that die with a connection, and forks: no slot is lost, and nobody's connection is another's."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fixtures.databases import Open
from fixtures.fault_table import Fault
from fixtures.server_processes import backend_pid
from fixtures.waiting import within

from presgen import DatabaseManager


@pytest.mark.leaks_connections
@pytest.mark.fault("thread dies with a connection")
def test_a_thread_that_dies_with_a_connection_loses_no_slot(
    opened: Open, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    manager = opened(pool_size=1, max_overflow=1, pool_timeout=5)
    for _ in range(3):
        threads = [threading.Thread(target=manager.database.connect) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fault.works_again(manager)
    assert "ended with a connection in hand" in caplog.text
    fault.add("a warning in the log")
    fault.loses_no_slot(manager)


@pytest.mark.leaks_connections
def test_a_slot_whose_thread_dies_while_others_wait_is_theirs(opened: Open) -> None:
    manager = opened(pool_size=1, max_overflow=0, pool_timeout=10)
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        manager.database.connect()
        held.set()
        end.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    threading.Timer(0.3, end.set).start()
    with within(1.5), manager.session():
        assert backend_pid(manager)
    assert manager.pool_stats()["waited_seconds"] > 0.2
    thread.join()


def in_child(manager: DatabaseManager, answer: multiprocessing.SimpleQueue[tuple[int, int]]) -> None:
    with manager.session():
        answer.put((backend_pid(manager), manager.pool_stats()["in_use"]))
    manager.close()


@pytest.mark.fault("fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own_and_leaves_the_parents_alone(opened: Open, fault: Fault) -> None:
    manager = opened()
    with manager.session():
        idle_too = ThreadPoolExecutor(1)
        idle_too.submit(backend_pid, manager).result()
        mine = backend_pid(manager)
        context = multiprocessing.get_context("fork")
        answer = context.SimpleQueue()
        child = context.Process(target=in_child, args=(manager, answer))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        childs, in_use = answer.get()
        assert (childs != mine, in_use) == (True, 1)
        fault.works_again(manager)
        assert backend_pid(manager) == mine
        idle_too.submit(manager.database.close).result()
        idle_too.shutdown()
    fault.add("nothing: the child connects anew")
    fault.loses_no_slot(manager)


def linger(manager: DatabaseManager, seconds: float) -> None:
    with manager.session():
        backend_pid(manager)
        time.sleep(seconds)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_breaks_off_no_statement_of_its_parent(opened: Open) -> None:
    """Although its parent's watchdog had a deadline for it at the fork."""
    manager = opened(statement_timeout=1)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(manager.database.connect).result()
        mine = threads.submit(backend_pid, manager).result()
        asleep = threads.submit(manager.database.execute_sql, "SELECT pg_sleep(0.6)")
        time.sleep(0.2)
        child = multiprocessing.get_context("fork").Process(target=linger, args=(manager, 2))
        child.start()
        child.join(30)
        assert asleep.result()
        assert threads.submit(backend_pid, manager).result() == mine
        threads.submit(manager.database.close).result()
