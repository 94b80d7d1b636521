"""Making a streaming replica of a server, in a folder of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...embedded import EmbeddedServer
from ...errors import ConfigurationError


def create_standby(database: Any, folder: Path) -> EmbeddedServer:
    """Copy the server that a database is on into an empty folder (pg_basebackup), and start it as a standby.

    The server's major version has to be one that is embedded, and the login to be allowed to replicate. Raises
    ConfigurationError for a folder that is not empty, DatabaseUnavailable with what pg_basebackup says.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty: a replica needs a folder of its own")
    (version,) = database.execute_sql("SELECT current_setting('server_version_num')::int / 10000").fetchone()
    server = EmbeddedServer(folder, version=version)
    server.follow(database.config.connect_parameters())
    server.start()
    return server
