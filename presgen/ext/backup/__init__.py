"""backup: the whole database in a file, as it is at one moment; verified by restoring it, and rotated.

`drill()` goes through a point-in-time recovery on servers of its own; docs/recovery.md says when which of them helps.
"""

from .manifest import Fingerprint, Manifest
from .operations import backups, create, restore, rotate, verify
from .recovery_drill import drill
from .rotation import kept

__all__ = ["Fingerprint", "Manifest", "backups", "create", "drill", "kept", "restore", "rotate", "verify"]
