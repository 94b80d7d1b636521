"""What the names of migrations tell: the first release's, and the phases that programs of two versions live through."""

from __future__ import annotations

import re
from typing import Final

FIRST_RELEASE: Final = "003_create_triggers"
"""Up to here migrations build the schema from nothing, where nobody is at work yet."""
_PHASED: Final = re.compile(r"\d{3}_(?P<phase>expand|contract)_\w+")


def phase_of(name: str) -> str | None:
    """`expand` for a migration that only adds, `contract` for one that takes away what the version before uses."""
    match = _PHASED.fullmatch(name)
    return match["phase"] if match else None
