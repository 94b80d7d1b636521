"""ActingCursor: PostgreSQL hears with each statement on whose behalf it runs, in the same round trip."""

from __future__ import annotations

import re
import select
from typing import Any, Final

from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS, connection, cursor

from .acting import NOBODY, acting_on

# The names that policies and triggers read; an empty text is none. What is sent as one text is one transaction, and
# the settings are that transaction's.
_TELL: Final = "SELECT set_config('presgen.user_id', %s, true), set_config('presgen.actor', %s, true)"
_BEGINS: Final = re.compile(r"\s*(BEGIN|START)\b[^;]*;?\s*$", re.IGNORECASE)
# Of these the transaction need hear nothing, or PostgreSQL takes them alone.
_ALONE: Final = re.compile(
    r"""\s*(COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|SET|SHOW|DISCARD|VACUUM|CLUSTER|REINDEX
    |(CREATE|ALTER|DROP)\s+(DATABASE|TABLESPACE|SYSTEM)|(CREATE(\s+UNIQUE)?|DROP)\s+INDEX\s+CONCURRENTLY)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_SEVERAL: Final = re.compile(r";\s*\S")
# To search takes longer than many a statement does, and hardly any has the word.
_OURS: Final = "presgen."
# Outside a transaction that lasts as long as the connection, whoever is acted for.
_SETS_OURS: Final = re.compile(r"\b(SET|set_config)\b.*\bpresgen\.(user_id|actor)\b", re.IGNORECASE | re.DOTALL)


class ActingConnection(connection):
    """A connection of the driver's, whose transaction may carry somebody."""

    database: Any
    """The pool that it belongs to."""
    may_carry = False
    has_foreign_settings = False
    """Whether a statement of somebody else's may have set for the session what we set for a transaction."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = ActingCursor
        self._poller: select.poll | None = None

    def has_something_to_read(self) -> bool:
        """Whether an idle connection's socket is readable: the server has closed it, or is out of step with us."""
        # Kept, since each statement outside a transaction asks, and to register takes longer than to poll.
        if self._poller is None:
            self._poller = select.poll()
            self._poller.register(self.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(self._poller.poll(0))


class ActingCursor(cursor):
    """A cursor of the driver's, each of whose statements carries what its context's block of acting_as() says.

    Always again: threads share transactions, and a savepoint that is undone takes along what was told after it. After
    executemany() that carries somebody, `rowcount` is that of its last statement; copy_from(), copy_to() and callproc()
    carry somebody in a transaction only, and act for nobody outside of one.
    """

    connection: ActingConnection

    @property
    def is_in_utc(self) -> bool:
        """Whether the driver gives moments in UTC, as the connection asks for, and a session may change."""
        return bool(self.connection.get_parameter_status("TimeZone") == "UTC")

    def execute(self, query: Any, vars: Any = None) -> None:
        telling = self._telling()
        text = query if isinstance(query, str) else self.mogrify(query, vars).decode(errors="replace")
        if _OURS in text.lower() and _SETS_OURS.search(text):
            self.connection.has_foreign_settings = True
        if telling is None or (_ALONE.match(text) and not _SEVERAL.search(text)):
            super().execute(query, vars)
        elif self.name is not None:
            self._tell(telling)
            super().execute(query, vars)
        elif _BEGINS.match(text):  # an isolation level goes before everything else
            super().execute(self.mogrify(query, vars).rstrip(b"; \n") + b"; " + telling)
        else:
            super().execute(telling + b"; " + self.mogrify(query, vars))

    def executemany(self, query: Any, vars_list: Any) -> None:
        if self._telling() is None:
            super().executemany(query, vars_list)
            return
        for vars in vars_list:  # outside a transaction each is one of its own, and has to hear
            self.execute(query, vars)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        telling = self._telling()
        super().copy_expert(sql if telling is None else telling + b"; " + self.mogrify(sql), file, size)

    def copy_from(self, *arguments: Any, **options: Any) -> None:
        self._tell(self._telling())
        super().copy_from(*arguments, **options)

    def copy_to(self, *arguments: Any, **options: Any) -> None:
        self._tell(self._telling())
        super().copy_to(*arguments, **options)

    def callproc(self, *arguments: Any) -> None:
        self._tell(self._telling())
        super().callproc(*arguments)

    def _telling(self) -> bytes | None:
        """The statement that tells on whose behalf this context's next one runs; None where nobody has to hear."""
        connection, acting = self.connection, acting_on(self.connection.database)
        if acting is NOBODY and not connection.may_carry:
            return None
        status = connection.get_transaction_status()
        if status == TRANSACTION_STATUS_IDLE:
            connection.may_carry = acting is not NOBODY
        elif status != TRANSACTION_STATUS_INTRANS:
            return None  # nothing but its end, or a savepoint's, which may bring back what it carried
        else:
            connection.may_carry = True
        if not connection.may_carry:
            return None
        telling: bytes = self.mogrify(_TELL, (str(acting.user_id or ""), acting.actor or ""))
        return telling

    def _tell(self, telling: bytes | None) -> None:
        if telling is not None:
            with cursor(self.connection) as plain:
                plain.execute(telling)
