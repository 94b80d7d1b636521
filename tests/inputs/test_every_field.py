"""Any value in any field by any way of writing: refused before the driver, or stored and read back as it was."""

from __future__ import annotations

import json
import operator
import unicodedata
from datetime import datetime
from fractions import Fraction
from typing import Any

import peewee as pw
from fixtures.effort import settings_for
from hostile_values import Given, LikeNumpy, values_for
from hypothesis import given
from hypothesis import strategies as st
from three_backends import Backends
from ways_of_writing import FIELDS, Way, ways_to_write


@st.composite
def writes(draw: st.DrawFn) -> tuple[Any, Way, Given]:
    field = draw(st.sampled_from(FIELDS))
    return field, draw(st.sampled_from(ways_to_write(field))), draw(values_for(field))


def test_every_value_is_refused_or_stored_alike_on_all_backends(backends: Backends) -> None:
    @settings_for(short=150, full=10_000)
    @given(writes())
    def check(write: tuple[Any, Way, Given]) -> None:
        field, way, value = write
        written = backends.outcome(lambda: way(field, value.make()))
        if written.is_stored:
            assert reads_back(field, value.make(), written.stored.get(field.name)), (write, written)
        else:
            assert written.is_refused, (write, written)

    check()


def reads_back(field: Any, given: Any, stored: Any) -> bool:
    """Whether the stored value is the given one, in the normal form that is documented for its field."""
    if given is None:
        return stored is None or stored == field.default or field.is_filled_by_database
    if isinstance(given, pw.Model):
        return bool(stored == given._pk)
    if isinstance(given, datetime):
        return bool(stored == given) and stored.utcoffset().total_seconds() == 0
    if field.name == "email":
        return stored == unicodedata.normalize("NFC", stored).lower()
    if field.name == "checkpoint":
        return bool(stored == json.loads(json.dumps(given)))
    if isinstance(given, Fraction):
        return bool(stored == float(given))
    if isinstance(given, LikeNumpy):
        return bool(stored == operator.index(given))
    return bool(stored == given)
