"""The router of `presgen migrate`: peewee-migrate's, which learns of earlier migrations in another way."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

from peewee_migrate import Migrator as Queue
from peewee_migrate import Router

from .recording import Recorder

logger = logging.getLogger("database.migrations")


class RecordingRouter(Router):
    """Learns the models that earlier migrations made from what those would execute.

    The library runs them with peewee patched, for the whole process: other threads would read what is no row, and a
    migration that reads would fail when the next one is applied.
    """

    @cached_property
    def migrator(self) -> Any:
        recorder = Recorder(self.migrate_dir, self.database)
        for name in self.done:
            try:
                recorder.replay(name)
            except Exception as error:  # whatever the file's code raises; it was applied long ago
                logger.debug("What %s made is not known: %s", name, error)
        queue: Any = Queue(self.database)
        queue.orm = recorder.queue.orm
        for model in queue.orm:
            model._meta.database = self.database
        return queue
