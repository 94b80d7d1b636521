"""Nobody ever sees a foreign row: under errors, threads, lost connections and PgBouncer, and as a model says."""

from __future__ import annotations

import io
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fixtures.debian import program
from fixtures.effort import settings_for
from fixtures.pgbouncer import PgBouncer
from fixtures.servers import VERSIONS
from fixtures.tenants import Tenancy, with_voice_and_job
from hypothesis import given
from hypothesis import strategies as st

from presgen import DatabaseConfig, DatabaseManager, PresentationJob, PresgenError, User, VoiceClone
from presgen.embedded import EmbeddedServer
from presgen.errors import ConstraintViolation, StatementInvalid
from presgen.ext.tenancy import sign_in, sign_up

BLOCKS, THREADS, USERS = 600, 4, 6
TABLES = ("users", "voice_clones", "presentation_jobs")


class Boom(Exception):
    pass


class Tenant:
    """A thread that acts for one user after the other, and of whose blocks many end in an error."""

    def __init__(self, app: DatabaseManager, tenancy: Tenancy, users: list[int], seed: int) -> None:
        self.app, self.tenancy, self.users = app, tenancy, users
        self.random = random.Random(seed)
        self.foreign: list[Any] = []
        self.surprises: list[BaseException] = []
        self.looks = self.errors = 0

    def run(self) -> None:
        for _ in range(BLOCKS // THREADS):
            try:
                with self.app.acting_as(self.random.choice(self.users)) as _:
                    self.block(*self.begun())
            except (Boom, ConstraintViolation, StatementInvalid):
                self.errors += 1
            except PresgenError as error:
                self.errors += 1
                if not error.retryable and type(error).__name__ not in ("CommitUnknown", "TransactionAborted"):
                    self.surprises.append(error)
            except BaseException as error:
                self.surprises.append(error)
            with suppress(PresgenError):
                self.foreign += list(User.select()) + list(PresentationJob.select())  # acting for nobody

    def begun(self) -> tuple[int, Callable[[], None]]:
        user = int(self.app.database.execute_sql("SELECT current_setting('presgen.user_id')").fetchone()[0])
        return user, self.random.choice([self.fail, self.break_a_rule, self.meddle, self.lose_the_line, self.nothing])

    def block(self, user: int, trouble: Callable[[], None]) -> None:
        self.look(user)
        if self.random.random() < 0.5:
            with self.app.transaction():
                self.look(user)
                with suppress(Boom), self.app.transaction():
                    User.update(name=f"Renamed {self.random.random()}").execute()
                    self.look(user)
                    raise Boom
                trouble()
                self.look(user)
        else:
            trouble()
        self.look(user)

    def look(self, user: int) -> None:
        self.foreign += [row for row in User.select() if row.id != user]
        for model in (VoiceClone, PresentationJob):
            self.foreign += [row for row in model.select() if row.owner_id != user]
        self.looks += 1

    def nothing(self) -> None:
        pass

    def fail(self) -> None:
        raise Boom

    def break_a_rule(self) -> None:
        self.app.database.execute_sql("UPDATE users SET name = ''")

    def meddle(self) -> None:
        """Write a row of somebody else's."""
        VoiceClone.create(name="x", s3_path=f"/{self.random.random()}.wav", owner=self.random.choice(self.users) + 1000)

    def lose_the_line(self) -> None:
        pid = self.app.database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]
        self.tenancy.admin("SELECT pg_terminate_backend(%s)", (pid,))


def live_together(app: DatabaseManager, tenancy: Tenancy) -> list[Tenant]:
    users = []
    for number in range(USERS):
        user = sign_up(app, name=f"User {number}")
        with app.acting_as(user):
            with_voice_and_job(user)
        users.append(user.id)
    tenants = [Tenant(app, tenancy, users, seed) for seed in range(THREADS)]
    threads = [threading.Thread(target=tenant.run) for tenant in tenants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tenants


def require_apart(tenants: list[Tenant]) -> None:
    assert [tenant.surprises for tenant in tenants] == [[]] * THREADS
    assert [tenant.foreign for tenant in tenants] == [[]] * THREADS
    assert sum(tenant.errors for tenant in tenants) > BLOCKS / 4
    assert sum(tenant.looks for tenant in tenants) > BLOCKS


def test_600_blocks_with_errors_see_no_foreign_row(tenancy: Tenancy) -> None:
    with tenancy.open("app", pool_size=2, max_overflow=2) as app:
        require_apart(live_together(app, tenancy))
        assert app.pool_stats()["in_use"] == 0


def test_600_blocks_with_errors_see_no_foreign_row_through_pgbouncer(
    tenancy: Tenancy, start_pgbouncer: Callable[..., PgBouncer]
) -> None:
    pgbouncer = start_pgbouncer(tenancy.admin_url, pool_size=2, users=[tenancy.name("app")])
    url = pgbouncer.url_of(tenancy.admin_url.rpartition("/")[2]).replace("//postgres@", f"//{tenancy.name('app')}@")
    with DatabaseManager(DatabaseConfig(url, pgbouncer=True)) as app:
        require_apart(live_together(app, tenancy))
        assert app.pool_stats()["in_use"] == 0


def test_the_blocks_would_notice_a_policy_that_admits_too_much(tenancy: Tenancy) -> None:
    tenancy.admin("CREATE POLICY too_much ON presentation_jobs FOR SELECT USING (id % 2 = 0)")
    with tenancy.open("app") as app, pytest.raises(AssertionError):
        require_apart(live_together(app, tenancy))


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["voice", "job", "foreign job", "rename", "rename all", "delete job", "delete voice", "leave"]),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=12,
)


class Model:
    """What each user owns, in Python."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.voices: dict[int, int] = {}
        self.jobs: dict[int, tuple[int, int]] = {}

    def of(self, user: int) -> tuple[Any, ...]:
        names = {user: self.names[user]} if user in self.names else {}
        voices = {voice for voice, owner in self.voices.items() if owner == user}
        return names, voices, {job for job, (owner, _) in self.jobs.items() if owner == user}


def seen() -> tuple[Any, ...]:
    names = {user.id: user.name for user in User.select()}
    return names, *({row.id for row in model.select()} for model in (VoiceClone, PresentationJob))


@pytest.fixture
def shared_app(tenancy: Tenancy) -> Iterator[DatabaseManager]:
    with tenancy.open("app") as app:
        yield app


def test_each_user_sees_what_a_model_says(shared_app: DatabaseManager) -> None:
    app, numbers = shared_app, iter(range(10**9))

    @settings_for(short=40, full=1000)
    @given(ACTIONS)
    def run(actions: list[tuple[str, int, int]]) -> None:
        model = Model()
        users = [sign_up(app, name="Somebody").id for _ in range(3)]
        model.names = dict.fromkeys(users, "Somebody")
        for kind, who, other in actions:
            with app.acting_as(users[who]):
                act(model, kind, users[who], users[other])
            for user in users:
                with app.acting_as(user):
                    assert seen() == model.of(user)
            assert seen() == ({}, set(), set())

    def act(model: Model, kind: str, user: int, other: int) -> None:
        mine = sorted(voice for voice, owner in model.voices.items() if owner == user)
        theirs = sorted(voice for voice, owner in model.voices.items() if owner == other)
        if kind == "voice":
            with suppress(StatementInvalid):
                voice = VoiceClone.create(name="x", s3_path=f"/{next(numbers)}-{user}.wav", owner=other)
                model.voices[voice.id] = user
        elif kind in ("job", "foreign job") and (voices := mine if kind == "job" else theirs):
            with suppress(StatementInvalid, ConstraintViolation):
                job = PresentationJob.enqueue(owner=user, voice_clone=voices[0], s3_pptx_path="/x.pptx")
                model.jobs[job.id] = (user, voices[0])
        elif kind == "rename" and User.update(name="Renamed").where(User.id == other).execute():
            model.names[user] = "Renamed"
        elif kind == "rename all" and User.update(name="All").execute():
            model.names[user] = "All"
        elif kind == "delete job" and PresentationJob.delete().execute():
            model.jobs = {job: facts for job, facts in model.jobs.items() if facts[0] != user}
        elif kind == "delete voice":
            with suppress(ConstraintViolation):
                VoiceClone.delete().execute()
                model.voices = {voice: owner for voice, owner in model.voices.items() if owner != user}
        elif kind == "leave" and User.delete().where(User.id == other).execute():
            model.names.pop(user)
            model.voices = {voice: owner for voice, owner in model.voices.items() if owner != user}
            model.jobs = {job: facts for job, facts in model.jobs.items() if facts[0] != user}

    run()


def test_a_setting_of_somebodys_own_goes_with_its_connection(tenancy: Tenancy, ada: int) -> None:
    with tenancy.open("app", pool_size=1, max_overflow=0) as app:
        for statement in (f"SET presgen.user_id = '{ada}'", f"SELECT set_config('presgen.user_id', '{ada}', false)"):
            with app.acting_as(ada), app.session() as database:
                database.execute_sql(statement)
            assert User.select().count() == 0
            with app.session() as database:
                database.cursor().execute(statement.encode())
            assert User.select().count() == 0
            assert User.update(name="leaked").execute() == 0


def test_several_statements_at_once_act_for_whom_their_block_says(app: DatabaseManager, ada: int) -> None:
    for statement in ("SET LOCAL work_mem = '1MB'; SELECT id FROM users", "SAVEPOINT x; SELECT id FROM users"):
        with app.transaction():
            with app.acting_as(ada):
                assert app.database.execute_sql(statement).fetchall() == [(ada,)]
            assert app.database.execute_sql(statement).fetchall() == []
            out = io.StringIO()
            app.database.cursor().copy_to(out, "users")
            assert out.getvalue() == ""


def test_who_signs_in_is_found_before_there_is_a_user(app: DatabaseManager, ada: int) -> None:
    with app.acting_as(ada):
        user = User.get()
        user.set_password("correct horse")
        user.save()
    assert sign_in(app, "ADA@example.com", "correct horse") == user
    for email, password in (("ada@example.com", "wrong"), ("bob@example.com", "correct horse"), ("nobody", "x")):
        assert sign_in(app, email, password) is None


def test_a_dump_by_operators_has_all_rows_and_one_by_the_app_is_refused(
    tenancy: Tenancy, app: DatabaseManager, postgresql: str, tmp_path: Path
) -> None:
    if postgresql in VERSIONS:
        pg_dump = EmbeddedServer(tmp_path, version=VERSIONS[postgresql]).binary("pg_dump")
    else:
        pg_dump = program("pg_dump", package="postgresql-client")

    def dump(login: str) -> subprocess.CompletedProcess[str]:
        words = [pg_dump, "--data-only", "--enable-row-security", "--inserts", "--dbname", tenancy.urls[login]]
        words += [f"--table={table}" for table in TABLES]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    of_worker, of_app = dump("worker"), dump("app")
    assert (of_worker.returncode, of_worker.stderr) == (0, "")
    assert [of_worker.stdout.count(f"INSERT INTO public.{table} ") for table in TABLES] == [2, 2, 2]
    assert of_app.returncode != 0  # and no dump without rows that nobody looks into
    assert "sequence" in of_app.stderr  # which the role may not read
    assert "INSERT" not in of_app.stdout
