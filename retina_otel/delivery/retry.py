"""When to try again: exponential back-off with full jitter, and the backend's own Retry-After.

Full jitter (a uniform draw between nothing and the bound) spreads the agents of a thousand nodes,
which all lost the same backend at the same moment. It may ask all of them for the same pause: each
waits that long, and up to a tenth longer.
"""

from __future__ import annotations

import email.utils
import random
from dataclasses import dataclass

LONGEST_RETRY_AFTER_S = 3600.0
"""A backend's Retry-After is obeyed up to this; what is longer is more likely a mistake."""
_SHORTEST_DELAY_S = 0.01
_SPREAD = 0.1
"""Part of a Retry-After that may be added to it."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """All in seconds. `max_elapsed_s` 0 means that nothing is given up because of its age."""

    initial_s: float = 1.0
    max_s: float = 30.0
    max_elapsed_s: float = 300.0
    multiplier: float = 2.0


class Backoff:
    """Delays for consecutive failures of one stream of requests."""

    def __init__(self, policy: RetryPolicy, source: random.Random) -> None:
        self.policy = policy
        self._random = source
        self._failures = 0

    def next_delay_s(self, retry_after_s: float | None = None) -> float:
        """How long to wait after one more failure. A pause that is shorter than our own first one,
        as 0 or a date that our clock is past, is none: it would be a hammer."""
        bound = self.policy.initial_s * self.policy.multiplier ** min(self._failures, 32)
        self._failures += 1
        share = self._random.random()
        drawn_s = share * min(bound, self.policy.max_s)
        if retry_after_s is None:
            return max(_SHORTEST_DELAY_S, drawn_s)
        asked_s = min(retry_after_s, LONGEST_RETRY_AFTER_S) * (1 + share * _SPREAD)
        if retry_after_s >= self.policy.initial_s:
            return asked_s
        return max(_SHORTEST_DELAY_S, drawn_s, asked_s)

    def reset(self) -> None:
        self._failures = 0


def parse_retry_after(value: str | None, wall_ns: int) -> float | None:
    """Seconds in a Retry-After header (seconds or an HTTP date); None if it says nothing usable."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - wall_ns / 1e9)
    except (ValueError, OverflowError, TypeError):
        return None
