"""The three backends side by side."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import TemporaryDirectory

import hypothesis.configuration
import pytest
from fixtures.canary import CANARY, DECK, MAIL
from fixtures.servers import BACKENDS, Server
from three_backends import Backends

from presgen import DatabaseConfig, DatabaseManager, PresentationJob, User, VoiceClone

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


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged from DEBUG on; nothing of it may sing."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    records = caplog.get_records("setup") + caplog.get_records("call")
    assert records
    for record in records:
        assert CANARY not in record.getMessage()
        assert CANARY not in repr(vars(record))


@pytest.fixture
def manager(url: str, log: pytest.LogCaptureFixture) -> Iterator[DatabaseManager]:
    """A manager that logs every statement, on a database whose rows are canaries."""
    with DatabaseManager(DatabaseConfig(url, debug=True, slow_query_seconds=0, pool_timeout=0.2)) as manager:
        user = User.create(id=1, name=CANARY, email=MAIL, password_hash=CANARY)
        voice = VoiceClone.create(id=1, name=CANARY, s3_path=f"/{CANARY}.wav", owner=user)
        job = PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path=DECK, idempotency_key=CANARY)
        PresentationJob.claim("w1")
        job = PresentationJob.get_by_id(job.id)
        job.heartbeat(checkpoint={CANARY: CANARY})
        yield manager
        parts = (manager, manager.config, manager.database, manager.database.config, manager.migrations)
        for shown in (*parts, *map(vars, parts[1:4]), manager.health(), manager.metrics()):
            assert CANARY not in repr(shown)
