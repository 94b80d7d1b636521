"""acting_on(): what a process does when it gets a signal, for the time of a block."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_Handlers = dict[signal.Signals, Any]
_REPLACED: Final[list[_Handlers]] = []
"""The handlers that the blocks of this process have replaced, the outermost block first."""


@contextmanager
def acting_on(actions: Mapping[signal.Signals, Callable[[signal.Signals], None]]) -> Iterator[None]:
    """Call an action for each of its signals during the block; elsewhere than in the main thread, do nothing.

    A process that is forked in the block has the handlers that were there before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, _frame: FrameType | None) -> None:
        actions[signal.Signals(number)](signal.Signals(number))

    before = {number: signal.signal(number, on_signal) for number in actions}
    _REPLACED.append(before)
    try:
        yield
    finally:
        if before in _REPLACED:  # and not taken back in a forked process
            _REPLACED.remove(before)
            _take_back(before)


def _take_back(before: _Handlers) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


def _take_back_all() -> None:
    while _REPLACED:
        _take_back(_REPLACED.pop())


# At once, and not when a signal comes: Python would look for it only when a call that waits has returned.
os.register_at_fork(after_in_child=_take_back_all)
