"""replicas: the plain SELECTs of reading() blocks go to streaming replicas that have caught up.

DATABASE_REPLICA_URLS names them; `create_standby()` makes one of a server on this machine.
"""

from .router import Replicas, flushed
from .standby import create_standby

__all__ = ["Replicas", "create_standby", "flushed"]
