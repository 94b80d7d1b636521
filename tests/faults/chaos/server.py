"""CrashServer: a PostgreSQL server that is shut down, crashed and killed on purpose."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import psycopg2

from presgen.embedded import EmbeddedServer

# A crash of processes leaves the page cache, so fsync would prove nothing more; what is in the server's own
# buffers is lost, and a WAL writer that sleeps long leaves there all that no COMMIT has written.
SETTINGS: Final = {
    "fsync": "off",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_writer_delay": "10s",
    "max_connections": "60",
    "listen_addresses": "",
    "port": "5432",
}
_START_SECONDS: Final = 60
_TERMINATE_ALL: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


class Restart(StrEnum):
    """The ways in which connections end."""

    FAST = "fast"
    IMMEDIATE = "immediate"
    KILL = "kill -9 of the postmaster"
    TERMINATE = "terminate all"


_SIGNALS: Final = {
    Restart.FAST: signal.SIGINT,
    Restart.IMMEDIATE: signal.SIGQUIT,
    Restart.KILL: signal.SIGKILL,
}


class CrashServer:
    """The postmaster as a child of this process, which alone can tell that a killed one is gone.

    It listens on a Unix socket only: no other program can take its place while it is down.
    """

    def __init__(self, folder: Path, *, version: int = 18, database: str = "presgen") -> None:
        self._embedded = EmbeddedServer(folder, version=version)
        self.database = database
        self._postmaster: subprocess.Popen[bytes] | None = None
        self._connection: Any = None

    def __enter__(self) -> CrashServer:
        with self._embedded:  # makes the folder, the cluster and the database
            pass
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(signal.SIGINT)

    @property
    def socket(self) -> Path:
        """Where the server listens."""
        return self._embedded.socket_folder / ".s.PGSQL.5432"

    @property
    def url(self) -> str:
        """The URL of the database, by the direct way."""
        return self._embedded.url_of(self.database)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement by the direct way; gives its rows, if it has any."""
        if self._connection is None:
            self._connection = psycopg2.connect(self.url)
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def use(self, database: str, *, template: str, settings: Mapping[str, str]) -> None:
        """Copy a database, and talk to the copy from now on; `settings` are its own."""
        self._disconnect()
        self.database = "postgres"
        self.query(f"CREATE DATABASE {database} TEMPLATE {template} STRATEGY file_copy")
        for name, value in settings.items():
            self.query(f"ALTER DATABASE {database} SET {name} = {value}")
        self._disconnect()
        self.database = database

    def processes(self) -> list[int]:
        """The postmaster and every process of its own that it shows, the postmaster first."""
        assert self._postmaster is not None
        shown = self.query("SELECT pid FROM pg_stat_activity")
        return [self._postmaster.pid, *(pid for (pid,) in shown)]

    @property
    def data(self) -> Path:
        """The data folder."""
        return self._embedded.data

    def restart(self, kind: Restart) -> None:
        """End every connection in one of the four ways, and wait until the server answers again."""
        if kind is Restart.TERMINATE:
            self.query(_TERMINATE_ALL)
            return
        self._stop(_SIGNALS[kind])
        self._start()

    def _start(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            # After a kill the first tries may fail: the orphans still hold the shared memory.
            if self._postmaster is None or self._postmaster.poll() is not None:
                self._postmaster = self._spawn()
            try:
                self.query("SELECT 1")
                return
            except psycopg2.Error:
                self._disconnect()
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def _spawn(self) -> subprocess.Popen[bytes]:
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            account = pwd.getpwnam("nobody")
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        settings = {**SETTINGS, "unix_socket_directories": str(self._embedded.socket_folder)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(self._embedded.folder / "crash.log", "ab") as log:
            return subprocess.Popen(
                [str(self._embedded.binary("postgres")), "-D", str(self._embedded.data), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._embedded.folder,
                env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ.get("PATH", "")},
                # A Ctrl-C in the terminal is for the driver, which then stops the server.
                start_new_session=True,
                **identity,
            )

    def _stop(self, number: signal.Signals) -> None:
        self._disconnect()
        if self._postmaster is not None:
            self._postmaster.send_signal(number)
            self._postmaster.wait(_START_SECONDS)
            self._postmaster = None

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
