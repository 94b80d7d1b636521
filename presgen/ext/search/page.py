"""Page: which of the rows that fit are wanted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """So many rows, ranked or the newest first, of one owner or of all, behind the last row of the page before."""

    limit: int
    is_ranked: bool
    owner_id: int | None = None
    before_rank: float | None = None
    before_id: int | None = None
