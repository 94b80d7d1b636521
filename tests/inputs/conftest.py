"""The three backends side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import TemporaryDirectory

import hypothesis.configuration
import pytest
from fixtures.servers import BACKENDS, Server
from three_backends import Backends

from presgen import DatabaseManager

# Before the first test, and until after the last: at both ends Hypothesis writes files.
_FILES_OF_HYPOTHESIS = TemporaryDirectory(prefix="presgen-hypothesis-")
hypothesis.configuration.set_hypothesis_home_dir(_FILES_OF_HYPOTHESIS.name)


@pytest.fixture(scope="module")
def backends(servers: dict[str, Server]) -> Iterator[Backends]:
    """A migrated database with the same few rows on every backend, each with a connection that stays open."""
    with ExitStack() as stack:
        managers = {}
        for name in BACKENDS:
            url = "sqlite:///:memory:"
            if name != "sqlite":
                servers[name].execute("DROP DATABASE IF EXISTS presgen_inputs", "CREATE DATABASE presgen_inputs")
                servers[name].created.append("presgen_inputs")
                url = servers[name].url_of("presgen_inputs")
            managers[name] = stack.enter_context(DatabaseManager(url))
            stack.enter_context(managers[name].session())
            managers[name].migrate()
        yield Backends(managers)
