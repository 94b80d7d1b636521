"""Opening what a configuration describes: the database, the servers of this machine that it needs, and its replicas."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from typing import Any

from .config import DatabaseConfig
from .database import PostgresPool
from .sqlite import SqliteFile


def open_database(config: DatabaseConfig, resources: ExitStack) -> PostgresPool | SqliteFile:
    """The database, whose connections are made when they are needed; `resources` closes whatever it takes."""
    database = _opened(config, resources)
    if config.replica_urls:
        opt_in: Any = import_module(".ext.replicas", __package__)
        pools = [_opened(config.of_replica(url), resources) for url in config.replica_urls]
        database.replicas = opt_in.Replicas(database, pools, max_lag=config.replica_max_lag)
        resources.callback(database.replicas.close)
    return database


def _opened(config: DatabaseConfig, resources: ExitStack) -> PostgresPool | SqliteFile:
    if config.backend == "embedded":
        from pathlib import Path

        from .embedded import EmbeddedServer

        server = resources.enter_context(EmbeddedServer(Path(config.path)))
        config = replace(config, url=server.url)
    database = SqliteFile(config) if config.backend == "sqlite" else PostgresPool(config)
    resources.callback(database.close_all)
    return database
