"""audit: a log of every write, with who made it and what it changed.

Triggers write it, so that raw SQL, COPY and other programs are in it too; `action()` adds what is no write.
"""

from __future__ import annotations

from typing import Final

from .entry import AuditEntry
from .log import action, export, history, prune, search
from .watching import EXCLUDED, TABLES, forget, install, is_installed, uninstall

__all__ = [
    "COST",
    "EXCLUDED",
    "STORES",
    "TABLES",
    "AuditEntry",
    "action",
    "export",
    "forget",
    "history",
    "install",
    "is_installed",
    "prune",
    "search",
    "uninstall",
]

COST: Final = (
    "single writes take 10 to 30 % longer, heartbeats 5 %, bulk loads 2 to 2.5 times as long (docs/security.md)"
)
STORES: Final = "the audit log"
CHANGES: Final = ("presgen_audit*",)
