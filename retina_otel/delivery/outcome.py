"""What became of one request: the four answers on which everything else in delivery is decided."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from retina_otel.delivery.packed import Packed


class Result(Enum):
    ACCEPTED = "accepted"
    """The backend has it; `Outcome.rejected` items of it were thrown away there."""
    RETRY = "retry"
    """Not now: the same request may pass later."""
    TOO_LARGE = "too_large"
    """A smaller one may pass."""
    REFUSED = "refused"
    """Never: sending it again would be refused again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one request. `reason` is a key for counting, `message` is for a person."""

    result: Result
    reason: str = ""
    message: str = ""
    remedy: str = ""
    rejected: int = 0
    """Points or records of an accepted request that the backend did not take (partial success)."""
    retry_after_s: float | None = None
    """How long the backend asked to be left alone."""
    remainder: Packed | None = None
    """Of an accepted request what the backend did not take now, but may take later."""
    before: tuple[Outcome, ...] = ()
    """Answers to the same request that was sent otherwise: to other endpoints, in another version,
    without what was refused. Each is a request that is counted."""


class Clock(Protocol):
    """The part of the agent's clock that delivery reads."""

    def wall_ns(self) -> int: ...

    def monotonic_ns(self) -> int: ...
