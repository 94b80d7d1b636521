"""The phases of a change that programs of two versions live through, as the names of migrations tell them."""

from __future__ import annotations

import re
from typing import Final

_PHASED: Final = re.compile(r"\d{3}_(?P<phase>expand|contract)_\w+")


def phase_of(name: str) -> str | None:
    """`expand` for a migration that only adds, `contract` for one that takes away what the version before uses."""
    match = _PHASED.fullmatch(name)
    return match["phase"] if match else None
