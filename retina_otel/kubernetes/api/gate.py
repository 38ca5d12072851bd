"""Gate: callbacks of a thread that may be waiting for the network when it is to end.

Invariant: after `shut` none of them is under way, and none comes any more. Nobody has to wait for
the thread itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec

_P = ParamSpec("_P")


class Gate:
    """Any thread; not `shut` from within a callback."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shut = False

    def guard(self, callback: Callable[_P, None]) -> Callable[_P, None]:
        """Calls it as long as the gate is open. Of all that it guards, one call at a time."""

        def told(*args: _P.args, **kwargs: _P.kwargs) -> None:
            with self._lock:
                if not self._shut:
                    callback(*args, **kwargs)

        return told

    def shut(self) -> None:
        """Waits for a callback that is under way."""
        with self._lock:
            self._shut = True
