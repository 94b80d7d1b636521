"""presgen.ext.flask: a session for each request of a real Flask application."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask, Response, stream_with_context

from presgen import DatabaseConfig, DatabaseManager, User
from presgen.ext.flask import init_app

REQUESTS = 1000


@pytest.fixture
def manager(url: str, postgresql: str) -> Iterator[DatabaseManager]:
    with DatabaseManager(DatabaseConfig(url, pool_size=3, max_overflow=3)) as manager:
        yield manager
        assert manager.pool_stats()["in_use"] == 0


@pytest.fixture
def app(manager: DatabaseManager) -> Flask:
    app = Flask(__name__)
    init_app(app, manager)

    @app.get("/connections")
    def connections() -> list[int]:
        return [manager.pool_stats()["in_use"], User.select().count(), manager.pool_stats()["in_use"]]

    @app.post("/users/<int:number>")
    def add(number: int) -> dict[str, int]:
        with manager.database.atomic():
            user = User.create(name="added")
            if number % 2:
                raise ZeroDivisionError
        return {"id": user.id}

    @app.post("/open")
    def left_open() -> str:
        manager.database.begin()
        User.create(name="left open")
        return ""

    @app.get("/stream")
    def stream() -> Response:
        names = (f"{user.name}\n" for user in User.select().order_by(User.id))
        return Response(stream_with_context(names))

    return app


def test_a_request_has_one_connection_from_its_first_statement_on(app: Flask, manager: DatabaseManager) -> None:
    assert app.test_client().get("/connections").json == [0, 0, 1]
    assert manager.pool_stats()["in_use"] == 0


def test_a_request_that_is_answered_before_it_begins_has_none(app: Flask, manager: DatabaseManager) -> None:
    app.before_request_funcs[None].insert(0, lambda: ("closed", 503))
    assert app.test_client().get("/connections").status_code == 503


def test_a_thousand_requests_leave_nothing(app: Flask, manager: DatabaseManager) -> None:
    def add(number: int) -> int:
        path = "/open" if number % 10 == 0 else f"/users/{number}"
        return app.test_client().post(path).status_code

    with ThreadPoolExecutor(16) as threads:
        codes = Counter(threads.map(add, range(REQUESTS)))
    assert codes == {200: REQUESTS // 2, 500: REQUESTS // 2}
    assert manager.pool_stats()["in_use"] == 0
    assert Counter(user.name for user in User.select()) == {"added": 400}


def test_a_stream_keeps_its_session_until_its_end(app: Flask, manager: DatabaseManager) -> None:
    User.insert_many([{"name": f"{number}"} for number in range(5)]).execute()
    with app.test_client().get("/stream") as response:
        assert response.text == "0\n1\n2\n3\n4\n"
