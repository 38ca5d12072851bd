"""Reasons: what the extension lacks, each for as long as it lasts, told as one sentence a tick."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Reasons:
    """Any thread sets them; the tick thread tells, so that a fault of all watches is one line."""

    def __init__(self, degraded: Callable[[str], None]) -> None:
        self._degraded = degraded
        self._lock = threading.Lock()
        self._reasons: dict[str, tuple[str, str]] = {}
        self._told = ""

    def set(self, about: str, reason: str, cost: str = "") -> None:
        """`reason` empty: all is well with it again. `about`: no two set the same; the kinds of
        objects are their watches'. `cost`: what may be unknown or out of date."""
        with self._lock:
            if reason:
                self._reasons[about] = cost, reason
            else:
                self._reasons.pop(about, None)

    def tell(self) -> None:
        """If anything has changed."""
        with self._lock:
            costs: dict[str, list[str]] = {}
            for cost, reason in self._reasons.values():
                costs.setdefault(reason, []).extend([cost] if cost else [])
        text = "; ".join(
            f"{', '.join(lacking)} may be unknown or out of date: {reason}" if lacking else reason
            for reason, lacking in costs.items()
        )
        if text != self._told:
            self._told = text
            self._degraded(text)
