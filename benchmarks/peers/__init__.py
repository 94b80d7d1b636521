"""The libraries that presgen is measured beside; each is imported only where it is installed and used."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

PEERS = {
    "SQLAlchemy": ("sqlalchemy",),
    "Django": ("django",),
    "procrastinate": ("procrastinate", "psycopg"),
    "pgqueuer": ("pgqueuer", "asyncpg"),
}
"""Their distributions, the drivers among them."""


def version_of(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def absent_peers(wanted: Iterable[str]) -> dict[str, str]:
    """The peers that cannot take part, and why."""
    chosen = {name.lower() for name in wanted}
    absent = {}
    for peer, distributions in PEERS.items():
        if peer.lower() not in chosen:
            absent[peer] = "left out"
        elif any(version_of(name) is None for name in distributions):
            absent[peer] = "not installed"
    return absent
