"""partitions: jobs and their events divided by the jobs' ids, each partition about a month's.

By the id and not by the month: what is done to a job, a hundred times in its life, then looks into one partition, the
id stays the primary key, and events go on referring to it. The space of partitions that were emptied, by the archive
for instance, comes back at once.
"""

from .feature import CHANGES, COST, finish, install, is_installed, uninstall
from .keeping import advance, compact, status
from .ranges import Partition

__all__ = [
    "CHANGES",
    "COST",
    "Partition",
    "advance",
    "compact",
    "finish",
    "install",
    "is_installed",
    "status",
    "uninstall",
]
