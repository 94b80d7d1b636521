"""The fixtures, one concern a file."""

import os
from pathlib import Path

# `python -m` would put the working folder first, and with it a checkout before the installed package.
os.environ["PYTHONSAFEPATH"] = "1"

import presgen

# In a checkout that is not installed, migrations and examples lie beside the package.
ROOT = Path(__file__).parent.parent
if Path(presgen.__file__).parent.parent == ROOT:
    presgen.__path__.append(str(ROOT))

pytest_plugins = [
    "fixtures.fault_table",
    "fixtures.pgbouncer",
    "fixtures.tls_server",
    "fixtures.leaks",
    "fixtures.servers",
    "fixtures.databases",
    "fixtures.rows",
    "fixtures.acting",
    "fixtures.tenants",
    "fixtures.encrypted",
    "fixtures.replicas",
    "fixtures.later_migrations",
    "fixtures.partitioned",
]
