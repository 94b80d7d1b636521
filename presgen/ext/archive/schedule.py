"""The units for systemd, and the line for cron, that archive every night."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

_UNITS: Final = ("presgen-archive.service", "presgen-archive.timer")


def systemd_units(command: Sequence[str], folder: Path) -> dict[str, str]:
    """The units' texts by their names; `command` is how to call presgen, the paths have to be absolute."""
    words = {"command": " ".join(map(_systemd_word, command)), "folder": _systemd_word(str(folder))}
    templates = files(__package__) / "units"
    return {name: (templates / name).read_text().format(**words) for name in _UNITS}


def cron_line(command: Sequence[str], folder: Path) -> str:
    """The line for a crontab in which DATABASE_URL is set."""
    # Cron takes a bare % for the end of the line.
    return "15 3 * * * " + shlex.join([*command, "archive", "run", str(folder)]).replace("%", r"\%")


def _systemd_word(word: str) -> str:
    """A word of ExecStart (systemd.service(5), "Command lines"), quoted where it has to be."""
    escaped = word.replace("\\", r"\\").replace('"', r"\"").replace("%", "%%").replace("$", "$$")
    return escaped if escaped.isascii() and not set(escaped) & set(" \t'\"\\;") else f'"{escaped}"'
