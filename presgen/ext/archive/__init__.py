"""archive: old finished jobs, with their events, leave the database for compressed files, and come back from there.

A folder holds, for each batch of jobs, a data file and its manifest; `folder.py` says in which order they are written.
"""

from __future__ import annotations

from typing import Final

from .archiving import BATCH, BATCH_MAX, RETENTION, count_due, purge, run
from .catalog import install, is_installed, uninstall
from .folder import manifests
from .manifest import Manifest
from .restoring import restore
from .schedule import cron_line, systemd_units
from .searching import ArchivedJob, search
from .verifying import verify

__all__ = [
    "BATCH",
    "BATCH_MAX",
    "COST",
    "RETENTION",
    "STORES",
    "ArchivedJob",
    "Manifest",
    "count_due",
    "cron_line",
    "install",
    "is_installed",
    "manifests",
    "purge",
    "restore",
    "run",
    "search",
    "systemd_units",
    "uninstall",
    "verify",
]

COST: Final = "nothing until it runs; a file has a fifth of the space that its jobs had in the database"
STORES: Final = "the record of which archives are this database's (the files stay)"
