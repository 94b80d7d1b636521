"""The database that a command works on."""

from __future__ import annotations

import os
from dataclasses import replace

import click

from ..config import DatabaseConfig
from ..manager import DatabaseManager


def open_manager(context: click.Context, *, patience_seconds: float | None = None) -> DatabaseManager:
    """The manager for `--database`, or for the environment's database; closed when the command ends.

    The environment's other settings (DATABASE_SSL, DATABASE_CONNECT_TIMEOUT, …) hold for both. A statement may
    take `patience_seconds` where DATABASE_STATEMENT_TIMEOUT says nothing else.
    """
    url: str | None = context.obj
    environ = os.environ if url is None else {**os.environ, "DATABASE_URL": url}
    config = DatabaseConfig.from_env(environ)
    if patience_seconds is not None and config.statement_timeout is None:
        config = replace(config, statement_timeout=patience_seconds)
    return context.with_resource(DatabaseManager(config))
