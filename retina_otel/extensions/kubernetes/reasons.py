"""Reasons: what the extension lacks, each for as long as it lasts, told as one sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Reasons:
    """Any thread."""

    def __init__(self, degraded: Callable[[str], None]) -> None:
        self._degraded = degraded
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}
        self._told = ""

    def set(self, about: str, reason: str) -> None:
        """`reason` empty: all is well with it again."""
        with self._lock:
            if reason:
                self._reasons[about] = reason
            else:
                self._reasons.pop(about, None)
            self._tell()

    def tell_again(self) -> None:
        """After the agent has called the component running, which it does when it has started."""
        with self._lock:
            if self._reasons:
                self._told = ""
                self._tell()

    def _tell(self) -> None:
        # Several watches that fail alike are one fault.
        text = "; ".join(dict.fromkeys(self._reasons.values()))
        if text != self._told:
            self._told = text
            self._degraded(text)
