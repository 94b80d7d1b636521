"""A session for each request of a Flask application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import MissingExtra

try:
    from flask import Flask, g
except ModuleNotFoundError:
    raise MissingExtra("flask", "web") from None

if TYPE_CHECKING:
    from ..manager import DatabaseManager

__all__ = ["init_app"]


def init_app(app: Flask, manager: DatabaseManager) -> None:
    """Give each request one connection, from its first statement on, and undo at its end what it has left open.

    The manager stays the application's to open and close.
    """

    def begin() -> None:
        g.presgen_session = manager.get_session()
        next(g.presgen_session)

    def end(_error: BaseException | None) -> None:
        session = g.pop("presgen_session", None)  # none where an earlier hook has answered the request
        if session is not None:
            session.close()

    app.before_request(begin)
    app.teardown_request(end)
