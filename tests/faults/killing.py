"""Killing a process just before its k-th step, and asking what it left from processes that never share a connection."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from presgen import DatabaseManager
from presgen.embedded import EmbeddedServer


class Violation(Exception):
    """Something is lost, there twice, or half."""


def forked(work: Callable[[], Any]) -> int:
    """Start the work in a process of its own; gives its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return child


def was_killed(child: int) -> bool:
    """Wait for a process: whether it was killed, or has come through; raises Violation when it failed."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if os.waitstatus_to_exitcode(status):
        raise Violation("a process that was not killed has failed")
    return False


def in_child(work: Callable[[], Any]) -> Any:
    """What the work gives, as JSON gives it back, in a process of its own; raises Violation when it fails."""
    reading, writing = os.pipe()

    def told() -> None:
        try:
            answer = {"result": work()}
        except Violation as error:
            answer = {"violation": str(error)}
        except BaseException as error:
            answer = {"violation": repr(error)}
        with os.fdopen(writing, "w") as pipe:
            json.dump(answer, pipe)

    child = forked(told)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = json.loads(pipe.read() or '{"violation": "a process ended without an answer"}')
    os.waitpid(child, 0)
    if "violation" in answer:
        raise Violation(answer["violation"])
    return answer["result"]


def steps_until(last: int) -> Callable[[Any], Any]:
    """A wrapper for functions each call of which is a step: this process is killed before step number `last`."""
    numbers = count(1)

    def stepping(function: Any) -> Any:
        def stepped(*arguments: Any, **options: Any) -> Any:
            if next(numbers) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return stepped

    return stepping


@contextmanager
def own_server() -> Iterator[tuple[Path, Callable[[], str]]]:
    """A folder that is gone afterwards, and what makes a new database on a server in it and gives its URL."""
    with TemporaryDirectory(prefix="presgen-kills-") as name:
        root, numbers = Path(name), count(1)
        root.chmod(0o755)
        with EmbeddedServer(root / "server") as server:
            yield root, lambda: _created_database(server.url, next(numbers))


def _created_database(url: str, number: int) -> str:
    """A new database on a server, made in a process of its own; gives its URL."""

    def create() -> None:
        with DatabaseManager(url) as manager:
            manager.database.execute_sql(f"CREATE DATABASE kill_{number}")

    in_child(create)
    return url.rpartition("/")[0] + f"/kill_{number}"


def require_same(found: dict[str, Any], expected: dict[str, Any], step: int) -> None:
    """Raise Violation unless a process that was killed at a step, and another one, have left what is expected."""
    for name in expected:
        if found[name] != expected[name]:
            raise Violation(f"after a kill at step {step} there are other {name}")
