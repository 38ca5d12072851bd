"""Departures: how long rows of endpoints that are gone stay, and what they lose when.

In order of going; a clock that steps back makes nothing last longer. Time is that of ticks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_TICKS_BEFORE_REUSE = 8


@dataclass(slots=True)
class _Gone:
    row: int
    ns: int
    tick: int
    remembered: bool
    """Its addresses outlast its interfaces."""


@dataclass(slots=True)
class Due:
    """Rows whose time has come."""

    lingered: list[int] = field(default_factory=list)
    """Their interfaces and namespaces, and addresses without times, lead nowhere from now on."""
    forgotten: list[int] = field(default_factory=list)
    """Their addresses have no past any longer."""
    free: list[int] = field(default_factory=list)
    """Nobody holds their number."""


class Departures:
    """Rows between gone and free."""

    def __init__(self, linger_ns: int, keep_ns: int, reuse_ns: int) -> None:
        self._linger_ns = linger_ns
        self._keep_ns = max(keep_ns, linger_ns)
        self._reuse_ns = max(reuse_ns, linger_ns)
        self._left: list[tuple[int, bool]] = []
        self._lingering: deque[_Gone] = deque()
        self._remembered: deque[_Gone] = deque()
        self._waiting: deque[_Gone] = deque()
        self._now_ns = 0
        self._tick = 0

    def leave(self, row: int, *, remembered: bool) -> None:
        """An endpoint is gone; since when, the next tick says."""
        self._left.append((row, remembered))

    def advance(self, now_ns: int) -> Due:
        """The next tick."""
        self._tick += 1
        if now_ns < self._now_ns:
            for gone in (*self._lingering, *self._remembered, *self._waiting):
                gone.ns = min(gone.ns, now_ns)
        self._now_ns = now_ns
        self._lingering.extend(_Gone(row, now_ns, self._tick, kept) for row, kept in self._left)
        self._left.clear()
        due = Due()
        while self._lingering and now_ns - self._lingering[0].ns >= self._linger_ns:
            gone = self._lingering.popleft()
            due.lingered.append(gone.row)
            (self._remembered if gone.remembered else self._waiting).append(gone)
        while self._remembered and now_ns - self._remembered[0].ns >= self._keep_ns:
            gone = self._remembered.popleft()
            due.forgotten.append(gone.row)
            # What was resolved a moment ago is still on its way.
            gone.ns = max(gone.ns, now_ns - self._reuse_ns + self._linger_ns)
            self._waiting.append(gone)
        while self._waiting and self._may_be_reused(self._waiting[0]):
            due.free.append(self._waiting.popleft().row)
        return due

    def _may_be_reused(self, gone: _Gone) -> bool:
        ticks = self._tick - gone.tick
        return self._now_ns - gone.ns >= self._reuse_ns and ticks >= _TICKS_BEFORE_REUSE
