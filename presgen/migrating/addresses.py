"""E-mail addresses that SQL alone does not bring into the form in which presgen stores and looks them up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ..errors import ValidationError
from ..validation import email
from .broken_rows import BrokenRows

# Of all others the form is their lower case.
_OTHERS: Final = r"""
SELECT id, email FROM users
WHERE email ~ '[^ -~]' OR email ILIKE '%%xn--%%' OR trim(email) !~ '^[A-Za-z0-9.!#$&*+/=?^_`{|}~''-]+@[A-Za-z0-9.-]+$'
ORDER BY id
"""
_TWINS: Final = "SELECT id, lower(trim(email)) FROM users WHERE lower(trim(email)) = ANY (%s)"
_STORE: Final = "UPDATE users SET email = '{form}' WHERE id = {user_id}"


@dataclass(frozen=True)
class Addresses:
    """The normal forms of addresses, by their users' ids, and those that have none or are somebody else's."""

    forms: dict[int, str]
    broken: tuple[BrokenRows, ...]

    def statements(self) -> Iterator[str]:
        """What writes the forms, before the column itself is converted."""
        for user_id, form in self.forms.items():
            yield _STORE.format(form=form.replace("'", "''"), user_id=user_id)


def addresses(database: Any) -> Addresses:
    """Look at every address that is not plain ASCII, or no plain address at all."""
    forms, refused = {}, []
    for user_id, address in database.execute_sql(_OTHERS).fetchall():
        try:
            forms[user_id] = email(address.strip())
        except ValidationError:
            refused.append(user_id)
    owners: dict[str, set[int]] = {}
    for user_id, form in (*database.execute_sql(_TWINS, (list(forms.values()),)).fetchall(), *forms.items()):
        owners.setdefault(form, set()).add(user_id)
    twins = sorted({one for ids in owners.values() if len(ids) > 1 for one in ids})
    broken = []
    if refused:
        broken.append(BrokenRows.of("users", "email", "it is no address", refused))
    if twins:
        broken.append(BrokenRows.of("users", "idx_users_email", "the same email twice", twins))
    return Addresses(forms, tuple(broken))
