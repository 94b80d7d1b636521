"""Which backups are kept: the last of each day, week and month, for so many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

from .manifest import Manifest

_PERIODS: Final[dict[str, Callable[[datetime], Any]]] = {
    "daily": lambda moment: moment.date(),
    "weekly": lambda moment: moment.isocalendar()[:2],
    "monthly": lambda moment: (moment.year, moment.month),
}


def kept(manifests: Iterable[Manifest], *, daily: int, weekly: int, monthly: int, now: datetime) -> set[str]:
    """The names of the backups to keep: of the latest days (weeks, months) that have one, the last; and the latest.

    What a wrong clock has dated after `now` is kept as well, and counts for nothing.
    """
    newest_first = sorted(manifests, key=lambda manifest: (manifest.moment, manifest.name), reverse=True)
    names = {manifest.name for manifest in newest_first if manifest.moment > now}
    newest_first = [manifest for manifest in newest_first if manifest.name not in names]
    names |= {manifest.name for manifest in newest_first[:1]}
    for period, count in (("daily", daily), ("weekly", weekly), ("monthly", monthly)):
        last_of: dict[Any, str] = {}
        for manifest in newest_first:
            last_of.setdefault(_PERIODS[period](manifest.moment), manifest.name)
        names |= set(list(last_of.values())[:count])
    return names
