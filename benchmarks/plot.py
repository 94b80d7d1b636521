"""The plot of a run: a bar for each target, as long as the target is exceeded, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .rows import Row

_WIDTH, _LABELS, _FIGURES, _LINE, _TOP = 1000, 500, 110, 24, 58
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.small { font-size: 11px; fill: #59636e; }
.met { fill: #1a7f37; }
.missed { fill: #bc4c00; }
.absent { fill: none; stroke: #818b98; stroke-dasharray: 3 3; }
.target { stroke: #59636e; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .small { fill: #9198a1; }
  .met { fill: #3fb950; }
  .missed { fill: #db6d28; }
  .target { stroke: #9198a1; }
}
"""


def svg(rows: Sequence[Row]) -> str:
    """An SVG of the rows that have a target, for light and for dark pages."""
    shown = [row for row in rows if row.limit.bound is not None]
    reach = max([2.0, *(max(margin, 1 / margin) for row in shown if (margin := _margin(row)))])
    half = (_WIDTH - _LABELS - _FIGURES) / 2
    middle = _LABELS + half
    height = _TOP + _LINE * len(shown) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        "<title>presgen beside its peers: each number against its target</title>",
        f"<style>{_STYLE}</style>",
        '<text x="8" y="20">presgen beside its peers</text>',
        f'<text class="small" x="{middle:.0f}" y="20" text-anchor="middle">target</text>',
        f'<text class="small" x="{middle - half:.0f}" y="38">{reach:.1f} times short of it</text>',
        f'<text class="small" x="{middle + half:.0f}" y="38" text-anchor="end">{reach:.1f} times better</text>',
    ]
    for place, row in enumerate(shown):
        parts += _bar(row, _TOP + place * _LINE, middle, half / math.log(reach))
    parts.append(f'<line class="target" x1="{middle:.0f}" x2="{middle:.0f}" y1="46" y2="{height - 6}"/>')
    return "\n".join([*parts, "</svg>", ""])


def _bar(row: Row, top: int, middle: float, scale: float) -> list[str]:
    margin = _margin(row)
    label = escape(f"{row.what} / {row.against}")
    text = f'<text x="{_LABELS - 8}" y="{top + 13}" text-anchor="end" class="small">{label}</text>'
    if margin is None:
        note = f'<text class="small" x="{middle + 38:.1f}" y="{top + 13}">{escape(row.note)}</text>'
        return [text, f'<rect class="absent" x="{middle:.1f}" y="{top + 2}" width="30" height="13"/>', note]
    said = f"{row.measured:.2f}× ({row.limit})"
    figures = f'<text class="small" x="{_WIDTH - _FIGURES + 8}" y="{top + 13}">{escape(said)}</text>'
    length = math.log(margin) * scale
    left, kind = middle + min(0.0, length), "met" if row.met else "missed"
    bar = f'<rect class="{kind}" x="{left:.1f}" y="{top + 2}" width="{max(abs(length), 1):.1f}" height="13" rx="2"/>'
    return [text, bar, figures]


def _margin(row: Row) -> float | None:
    return None if row.measured is None else row.limit.margin(row.measured)
