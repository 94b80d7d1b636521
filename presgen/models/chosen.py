"""update_chosen(): change the rows that a query of ids chooses, and no more of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peewee as pw

from ..clock import is_sqlite


def update_chosen(model: Any, chosen: Any, row: dict[Any, Any], *, ctes: Sequence[Any] = ()) -> Any:
    """An UPDATE of the rows whose ids the query chooses, leaving out those that somebody else holds locked.

    `ctes` are those that the query reads from.

    The CTE is materialised: as a plain IN (…) a nested loop may run it again for each row, and then takes
    more rows than its LIMIT.
    """
    if not is_sqlite(model._meta.database):
        chosen = chosen.for_update("FOR UPDATE SKIP LOCKED")
    cte = chosen.cte("chosen", materialized=True)
    return pw.ModelUpdate(model, model.touched(row)).from_(cte).where(model.id == cte.c.id).with_cte(*ctes, cte)
