"""The web application, under FastAPI and a real server: every request gives its connection back."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse
from fixtures.servers import Server
from fixtures.waiting import wait_until

from presgen import DatabaseConfig, DatabaseManager, JobStatus, PresentationJob, User, VoiceClone
from presgen.examples.web_app import create_app

REQUESTS = 1000
VOICE = {"name": "calm", "s3_path": "/ada.wav"}


@contextmanager
def served(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the application, which runs behind uvicorn on a port of the loopback."""
    with socket.create_server(("127.0.0.1", 0), backlog=2 * REQUESTS) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, backlog=2 * REQUESTS))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive())
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def manager(servers: dict[str, Server]) -> Iterator[DatabaseManager]:
    """A pool that is far smaller than the number of requests."""
    server = servers["postgresql-18"]
    server.execute("DROP DATABASE IF EXISTS presgen_web WITH (FORCE)", "CREATE DATABASE presgen_web")
    with DatabaseManager(DatabaseConfig(server.url_of("presgen_web"), pool_size=5, max_overflow=5)) as manager:
        manager.migrate()
        yield manager
        assert manager.pool_stats()["in_use"] == 0


async def at_once(base: httpx.Client, requests: list[tuple[str, str, Any]]) -> list[httpx.Response]:
    """The answers to requests that are all sent before the first is answered."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=base.base_url, timeout=120, limits=limits) as client:
        return await asyncio.gather(*(client.request(verb, path, json=body) for verb, path, body in requests))


def test_a_user_submits_a_deck_and_sees_its_progress(manager: DatabaseManager) -> None:
    with served(create_app(manager)) as client:
        assert client.post("/users", json={"name": "Ada", "email": "Ada@Example.com"}).json() == {
            "id": 1,
            "email": "ada@example.com",
        }
        assert client.post("/users/1/voices", json=VOICE).json() == {"id": 1, "name": "calm"}
        jobs = [
            client.post("/users/1/jobs", json={"voice_clone": 1, "s3_pptx_path": f"/{number}.pptx"}).json()["id"]
            for number in range(5)
        ]
        with manager.session():
            (job,) = PresentationJob.claim("w1")
            job.advance(JobStatus.SYNTHESIZING_AUDIO, progress=0.25)
        seen = client.get(f"/jobs/{job.id}").json()
        assert (seen["status"], seen["progress"], seen["owner"]) == ("synthesizing_audio", 0.25, 1)
        assert [status for status, _ in seen["history"]] == ["processing_slides", "synthesizing_audio"]
        first = client.get("/jobs", params={"limit": 3}).json()
        second = client.get("/jobs", params={"limit": 3, "after": first["next"]}).json()
        assert [job["id"] for job in first["jobs"] + second["jobs"]] == jobs[::-1]
        assert second["next"] is None
        assert client.delete(f"/jobs/{jobs[-1]}").json()["status"] == "cancelled"
        assert client.get("/jobs", params={"status": "cancelled"}).json()["jobs"][0]["id"] == jobs[-1]
        assert client.get("/health").json()["ok"] is True


def test_what_is_wrong_is_told_as_such(manager: DatabaseManager) -> None:
    with served(create_app(manager)) as client:
        assert client.post("/users", json={"name": " "}).json() == {
            "detail": "name must not be empty",
            "field": "name",
        }
        client.post("/users", json={"name": "Ada", "email": "ada@example.com"})
        again = client.post("/users", json={"name": "Eve", "email": "ADA@example.com"})
        assert (again.status_code, again.json()["rule"]) == (409, "idx_users_email")
        assert "ada@" not in again.text.lower()
        assert client.get("/jobs/7").status_code == 404
        assert client.get("/jobs", params={"after": "nonsense"}).status_code == 422
        assert client.post("/users/9/voices", json=VOICE).status_code == 409


def test_an_outage_is_worth_another_try(manager: DatabaseManager) -> None:
    with served(create_app(DatabaseManager("postgresql://nobody@127.0.0.1:1/nowhere"))) as client:
        refused = client.post("/users", json={"name": "Ada"})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert client.get("/health").status_code == 503


def test_a_thousand_requests_at_once_are_served_and_a_failed_one_leaves_nothing(manager: DatabaseManager) -> None:
    def submission(number: int) -> dict[str, Any]:
        user = {"name": f"{number}", "email": f"{number}@example.com"}
        voice = {**VOICE, "s3_path": f"{'/' if number % 4 else ''}{number}.wav"}
        return {"user": user, "voice": voice, "s3_pptx_path": "/deck.pptx"}

    submissions: list[tuple[str, str, Any]] = [("POST", "/submissions", submission(n)) for n in range(REQUESTS // 2)]
    reads: list[tuple[str, str, Any]] = [("GET", "/jobs?limit=5", None)] * (REQUESTS // 2)
    with served(create_app(manager)) as client:
        mixed = [request for pair in zip(submissions, reads, strict=True) for request in pair]
        answers = asyncio.run(at_once(client, mixed))
        assert Counter(answer.status_code for answer in answers[::2]) == {201: 375, 422: 125}
        assert Counter(answer.status_code for answer in answers[1::2]) == {200: 500}
        wait_until(lambda: not manager.pool_stats()["in_use"])  # a dependency ends after its answer is sent
        good = [f"{number}" for number in range(REQUESTS // 2) if number % 4]
        assert sorted(user.name for user in User.select()) == sorted(good)
        assert VoiceClone.select().count() == PresentationJob.select().count() == len(good)


def test_sessions_as_dependencies_of_every_kind_leave_nothing(manager: DatabaseManager) -> None:
    """Of `def` and `async def` endpoints, which fail half of the time, also in the middle of a transaction."""
    app = FastAPI()
    the_session = Depends(manager.get_session)

    @app.middleware("http")
    async def answer_errors(request: Request, call_next: Any) -> Any:
        try:
            return await call_next(request)
        except ZeroDivisionError:
            return PlainTextResponse("", 500)

    def known(session: Any = the_session) -> int:
        return User.select().count()  # in another thread than its endpoint, maybe

    @app.post("/threads/{number}")
    def in_a_thread(number: int, session: Any = the_session, before: int = Depends(known)) -> None:
        with session.atomic():
            User.create(name="thread")
            fail_half(number)

    @app.post("/coroutines/{number}")
    async def in_a_coroutine(number: int, session: Any = the_session) -> None:
        with session.atomic():
            User.create(name="coroutine")
            fail_half(number)

    @app.post("/open/{number}")
    def left_open(number: int, session: Any = the_session) -> None:
        session.begin()
        User.create(name="left open")
        fail_half(number)

    def whole(session: Any = the_session) -> Iterator[None]:
        with session.atomic():  # begins and ends in other threads than the endpoint's
            yield

    @app.post("/whole/{number}", dependencies=[Depends(whole, scope="function")])
    def in_one_transaction(number: int) -> None:
        User.create(name="whole")
        fail_half(number)

    def rounds(kinds: tuple[str, ...], number: int) -> list[tuple[str, str, Any]]:
        return [("POST", f"/{kind}/{n}", None) for n in range(number) for kind in kinds]

    with served(app) as client:
        answers = asyncio.run(at_once(client, rounds(("threads", "coroutines", "threads"), 100)))
        # A connection that is left open comes back at the end of its request.
        answers += asyncio.run(at_once(client, rounds(("threads", "open"), 50)))
        # Few at once: a request that waits for a thread inside its transaction keeps its connection.
        answers += asyncio.run(at_once(client, rounds(("whole",), 8)))
        assert Counter(answer.status_code for answer in answers) == {200: 204, 500: 204}
        wait_until(lambda: not manager.pool_stats()["in_use"])  # a dependency ends after its answer is sent
        assert Counter(user.name for user in User.select()) == {"thread": 125, "coroutine": 50, "whole": 4}


def fail_half(number: int) -> None:
    if number % 2:
        raise ZeroDivisionError


def test_requests_act_each_for_its_own_user(manager: DatabaseManager) -> None:
    app = FastAPI()

    async def as_user(user_id: int) -> AsyncIterator[None]:
        with manager.acting_as(user_id):
            yield

    def as_nobody(user_id: int) -> Iterator[None]:
        with manager.acting_as(user_id):
            yield

    def carried() -> Any:
        sql = "SELECT nullif(current_setting('presgen.user_id', true), '')"
        return manager.database.execute_sql(sql).fetchone()[0]

    @app.get("/sync", dependencies=[Depends(as_user), Depends(manager.get_session)])
    def in_a_thread() -> Any:
        return carried()

    @app.get("/async", dependencies=[Depends(as_user)])
    async def on_the_loop() -> Any:
        return await asyncio.to_thread(carried)

    @app.get("/nobody", dependencies=[Depends(as_nobody)])
    def for_nobody() -> Any:
        return carried()

    with served(app) as client:
        paths = [(path, number) for number in range(1, 101) for path in ("sync", "async", "nobody")]
        answers = asyncio.run(at_once(client, [("GET", f"/{path}?user_id={number}", None) for path, number in paths]))
    assert [answer.json() for answer in answers] == [
        None if path == "nobody" else str(number) for path, number in paths
    ]
