"""acting_on(): what a process does when it gets a signal, for the time of a block."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


@contextmanager
def acting_on(actions: Mapping[signal.Signals, Callable[[signal.Signals], None]]) -> Iterator[None]:
    """Call an action for each of its signals during the block; elsewhere than in the main thread, do nothing.

    A process that is forked in the block has the handlers that were there before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == process:
            actions[signal.Signals(number)](signal.Signals(number))
            return
        signal.signal(number, before[signal.Signals(number)])
        os.kill(os.getpid(), number)

    before = {number: signal.signal(number, on_signal) for number in actions}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
