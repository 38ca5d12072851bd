"""History: the last events, and those who wait for more.

A bounded number of events is kept. Each follower has a bounded queue of blocks: one that is too
slow misses the oldest of them and is told how many events that were. Any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from retina_otel.observe.records import Observed

_MOST_WAITING = 64
"""Blocks that wait for one follower."""


class Follower:
    """Gets every block from its making on. Used by one thread, fed by another."""

    def __init__(self) -> None:
        self._blocks: deque[Observed] = deque()
        self._missed = 0
        self._changed = threading.Condition()
        self._ended = False

    def put(self, observed: Observed) -> None:
        with self._changed:
            self._blocks.append(observed)
            while len(self._blocks) > _MOST_WAITING:
                self._missed += len(self._blocks.popleft())
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def next(self, timeout_s: float) -> tuple[Observed | None, int]:
        """A block, or None after `timeout_s`; and how many events were missed before it."""
        with self._changed:
            if not self._blocks and not self._ended:
                self._changed.wait(timeout_s)
            missed, self._missed = self._missed, 0
            return (self._blocks.popleft() if self._blocks else None), missed

    @property
    def ended(self) -> bool:
        """Nothing more will come, and all that came was taken."""
        return self._ended and not self._blocks


class History:
    """The last `capacity` events, to the block."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._ended = False
        self._blocks: deque[Observed] = deque()
        self._n_events = 0
        self._followers: set[Follower] = set()

    def add(self, observed: Observed) -> None:
        with self._lock:
            self._blocks.append(observed)
            self._n_events += len(observed)
            while self._n_events - len(self._blocks[0]) >= self._capacity:
                self._n_events -= len(self._blocks.popleft())
            for follower in self._followers:
                follower.put(observed)

    def past(self) -> Iterator[Observed]:
        """What is kept, the oldest first."""
        with self._lock:
            blocks = list(self._blocks)
        return iter(blocks)

    def follow(self) -> tuple[list[Observed], Follower]:
        """What is kept, and a follower that gets all that comes after it."""
        follower = Follower()
        with self._lock:
            if self._ended:
                follower.end()
            self._followers.add(follower)
            return list(self._blocks), follower

    def leave(self, follower: Follower) -> None:
        with self._lock:
            self._followers.discard(follower)
            self._left.notify_all()

    def end(self, patience_s: float) -> None:
        """Nothing more will come. Returns when every follower has taken what came and has left, or
        when they took too long."""
        with self._lock:
            self._ended = True
            for follower in self._followers:
                follower.end()
            self._left.wait_for(lambda: not self._followers, patience_s)
