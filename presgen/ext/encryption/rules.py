"""The SQL that makes users.email a column of envelopes, and of addresses again."""

from __future__ import annotations

from typing import Any, Final

from ...clock import is_sqlite
from ...sealing import DIGEST_LENGTH, DIGEST_START, EMAIL, PREFIX, envelope_pattern

# Writers wait from here on, readers go on until the type changes.
LOCK: Final = "LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE"

USES_DIGESTS: Final = {
    False: """
    SELECT 1
    FROM pg_index
    WHERE indrelid = to_regclass('users') AND indexrelid = to_regclass('idx_users_email') AND indexprs IS NOT NULL
    """,
    True: "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = 'idx_users_email' AND sql LIKE '%substr(%'",
}
"""Gives a row if the unique index is one of digests; by whether it is SQLite that is asked."""

_DROP_INDEX: Final = "DROP INDEX IF EXISTS idx_users_email"
# The name stays, so that who catches a ConstraintViolation by it need not know.
_INDEX: Final = "CREATE UNIQUE INDEX idx_users_email ON users "
_ADDRESSES: Final = "(email) WHERE email IS NOT NULL"
# Without a WHERE: of a digest SQLite would not see that its address is not NULL.
_DIGESTS: Final = f"(substr(email, {DIGEST_START}, {DIGEST_LENGTH}))"
_TRIGGER: Final = """
CREATE TRIGGER {rule}_{event} BEFORE {event} ON users FOR EACH ROW
WHEN {refused}
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: {rule}');
END
"""


def columns_for(database: Any, *, sealed: bool) -> list[str]:
    """What has to be done before the values change: the old rules go, and there is room for envelopes."""
    dropped, rules = [_DROP_INDEX], (EMAIL.rule, EMAIL.opposite_rule)
    if is_sqlite(database):
        for rule in rules:
            dropped += [f"DROP TRIGGER IF EXISTS {rule}_{event}" for event in ("insert", "update")]
        return dropped
    for rule in rules:
        dropped.append(f"ALTER TABLE users DROP CONSTRAINT IF EXISTS {rule}")
    return [*dropped, "ALTER TABLE users ALTER COLUMN email TYPE text"] if sealed else dropped


def rules_for(database: Any, index_key_id: str | None) -> list[str]:
    """What holds from then on: one user for each address, and one form of values, by one index key.

    The second half of the rule is true, and tells the key by more than its id.
    """
    if index_key_id is None:
        index, rule, allowed = _ADDRESSES, EMAIL.opposite_rule, f"{{column}} NOT LIKE '{PREFIX}%'"
    else:
        check_value = database.sealing.check_value(index_key_id)
        pattern = envelope_pattern(index_key_id=index_key_id)
        index, rule, allowed = _DIGESTS, EMAIL.rule, f"{{column}} LIKE '{pattern}' AND 'key {check_value}' <> ''"
    created = [_INDEX + index]
    if is_sqlite(database):
        refused = f"NOT ({allowed.format(column='NEW.email')})"
        return created + [_TRIGGER.format(rule=rule, event=event, refused=refused) for event in ("insert", "update")]
    if index_key_id is None:
        created.insert(0, "ALTER TABLE users ALTER COLUMN email TYPE varchar(255)")
    check = f"ALTER TABLE users ADD CONSTRAINT {rule} CHECK ({allowed.format(column='email')})"
    return [*created, check]
