"""The chaos run in short, its tools, and its mutants. The full form: `tox -e faults`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2
import pytest
from chaos.mutants import MUTANTS
from chaos.plans import MUTANT_PLANS, SHORT
from chaos.proxy import KINDS, CuttingProxy
from chaos.run import prepare, run, use_a_copy
from chaos.server import CrashServer, Restart

from presgen import (
    CommitUnknown,
    DatabaseManager,
    DatabaseUnavailable,
    JobStatus,
    PresentationJob,
    User,
    VoiceClone,
    prepared,
)


@pytest.fixture(scope="module")
def server() -> Iterator[CrashServer]:
    # Not in pytest's own folder, which other runs of pytest prune.
    with TemporaryDirectory(prefix="presgen-chaos-") as folder, CrashServer(Path(folder) / "server") as server:
        prepare(server)
        yield server


@pytest.fixture
def proxy(server: CrashServer) -> Iterator[CuttingProxy]:
    """A proxy before a database of its own."""
    use_a_copy(server, settings={})
    server.query("CREATE TABLE numbers (number int)")
    with CuttingProxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
def connection(server: CrashServer, proxy: CuttingProxy) -> Iterator[Any]:
    connection = psycopg2.connect(proxy.url_of(server.database))
    connection.autocommit = True
    yield connection
    connection.close()


def test_the_proxy_cuts_only_the_reply_to_what_was_committed(
    server: CrashServer, proxy: CuttingProxy, connection: Any
) -> None:
    cursor = connection.cursor()
    proxy.order("any")
    cursor.execute("SELECT 1")
    cursor.execute("UPDATE numbers SET number = 1")  # finds no row
    with pytest.raises(psycopg2.errors.DivisionByZero):
        cursor.execute("INSERT INTO numbers VALUES (1 / 0)")
    cursor.execute("BEGIN")
    cursor.execute("INSERT INTO numbers VALUES (1)")
    assert proxy.cuts.total() == 0
    with pytest.raises(psycopg2.OperationalError):
        cursor.execute("COMMIT")
    assert proxy.cuts == {"COMMIT": 1}
    assert server.query("SELECT number FROM numbers") == [(1,)]


def test_the_proxy_cuts_the_reply_to_copied_rows(server: CrashServer, proxy: CuttingProxy, connection: Any) -> None:
    proxy.order("enqueue")
    with pytest.raises(psycopg2.OperationalError):
        connection.cursor().copy_expert("COPY numbers FROM STDIN", StringIO("1\n2\n"))
    assert proxy.cuts == {"enqueue": 1}
    assert server.query("SELECT number FROM numbers") == [(1,), (2,)]


@pytest.mark.parametrize("uses", [0, sys.maxsize], ids=["prepared", "as-it-is"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_proxy_can_cut_each_of_presgen_s_writes(
    server: CrashServer, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch, kind: str, uses: int
) -> None:
    monkeypatch.setattr(prepared, "USES_BEFORE", uses)
    with DatabaseManager(proxy.url_of(server.database)) as manager:
        row = {"owner": User.get(), "voice_clone": VoiceClone.get(), "s3_pptx_path": "/decks/a.pptx"}
        PresentationJob.enqueue(**row)
        (job,) = PresentationJob.claim("w1")
        PresentationJob.enqueue(**row)
        if kind == "rescue":
            server.query("UPDATE presentation_jobs SET lease_expires_at = now() - interval '1 s' WHERE worker = 'w1'")

        def commit() -> None:
            with manager.transaction():
                PresentationJob.enqueue(**row)

        verbs: dict[str, Callable[[], object]] = {
            "claim": lambda: PresentationJob.claim("w2"),
            "rescue": PresentationJob.reap,
            "complete": lambda: job.complete("/videos/a.mp4"),
            "advance": lambda: job.advance(JobStatus.SYNTHESIZING_AUDIO),
            "fail, release": job.release,
            "cancel": job.cancel,
            "heartbeat": job.heartbeat,
            "enqueue": lambda: PresentationJob.enqueue(**row),
            "COMMIT": commit,
        }
        proxy.order(kind)
        with suppress(CommitUnknown, DatabaseUnavailable):
            verbs[kind]()
        assert proxy.cuts == {kind: 1}


@pytest.mark.parametrize("kind", Restart)
def test_a_restart_ends_connections_and_keeps_what_was_committed(
    server: CrashServer, connection: Any, kind: Restart
) -> None:
    connection.cursor().execute("INSERT INTO numbers VALUES (1)")
    server.restart(kind)
    with pytest.raises(psycopg2.Error):
        connection.cursor().execute("SELECT 1")
    assert server.query("SELECT number FROM numbers") == [(1,)]


def test_no_job_is_lost_and_none_is_done_twice(server: CrashServer, tmp_path: Path) -> None:
    verdict = run(SHORT, server, tmp_path / "run")
    print(verdict.table())
    assert verdict.violations == []
    assert verdict.shortfalls == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checker_notices_a_safeguard_that_is_missing(server: CrashServer, tmp_path: Path, mutant: str) -> None:
    verdict = run(MUTANT_PLANS[mutant], server, tmp_path / "run", mutant=mutant)
    print(verdict.table())
    assert verdict.of(MUTANTS[mutant])
