"""The database that a command works on."""

from __future__ import annotations

import os

import click

from ..config import DatabaseConfig
from ..manager import DatabaseManager


def open_manager(context: click.Context) -> DatabaseManager:
    """The manager for `--database`, or for the environment's database; closed when the command ends.

    The environment's other settings (DATABASE_SSL, DATABASE_CONNECT_TIMEOUT, …) hold for both.
    """
    url: str | None = context.obj
    environ = os.environ if url is None else {**os.environ, "DATABASE_URL": url}
    return context.with_resource(DatabaseManager(DatabaseConfig.from_env(environ)))
