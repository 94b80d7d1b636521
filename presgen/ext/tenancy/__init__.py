"""tenancy: everybody sees their own rows only (row-level security); whoever acts for nobody sees none.

On SQLite, and for roles that see all rows, `queries.owned_by()` and the models' `owned_by()` scope what is read.
"""

from .accounts import find_user, sign_in, sign_up
from .bypasses import check, require
from .policies import CHANGES, COST, install, is_installed, uninstall

__all__ = [
    "CHANGES",
    "COST",
    "check",
    "find_user",
    "install",
    "is_installed",
    "require",
    "sign_in",
    "sign_up",
    "uninstall",
]
