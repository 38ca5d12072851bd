"""What the tests of faults ask of an exporter and its backend, in the same words for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from retina_otel.component import Context, Exporter


class Verdict(Enum):
    """What becomes of a request."""

    RETRIED = "retried"
    REFUSED = "refused"
    TOO_LARGE = "too_large"


OTLP_HTTP_VERDICTS = {
    400: Verdict.REFUSED,
    401: Verdict.REFUSED,
    403: Verdict.REFUSED,
    404: Verdict.REFUSED,
    413: Verdict.TOO_LARGE,
    429: Verdict.RETRIED,
    500: Verdict.REFUSED,
    502: Verdict.RETRIED,
    503: Verdict.RETRIED,
    504: Verdict.RETRIED,
}
REMOTE_WRITE_VERDICTS = {**OTLP_HTTP_VERDICTS, 500: Verdict.RETRIED}
"""Here each 5xx may be sent again."""


class Kit(ABC):
    """One exporter, and a real backend for it on loopback that keeps its own tally."""

    name: str
    verdicts: Mapping[int, Verdict]
    """By HTTP status, or what stands for it in another protocol, without a word on when to come
    again."""
    verdicts_with_wait: Mapping[int, Verdict]
    """The same, where the backend says when to come again."""
    has_events: bool
    cumulative = True
    """Otherwise it sends deltas, which the backend adds up."""
    bearer = True
    """It has `auth.bearer`."""
    partly: str = ""
    """The reason that is counted for a request that is taken in part; "" if there is no such."""
    port: int

    @classmethod
    @abstractmethod
    def make(
        cls, port: int, scheme: str = "http", **settings: Any
    ) -> Callable[[Context], Exporter]:
        """What makes the exporter, for a backend at a port of loopback."""

    @abstractmethod
    def fail(self, status: int, retry_after_s: float | None = None) -> None:
        """From now on each request is answered so."""

    @abstractmethod
    def reject(self, n: int) -> None:
        """The next request is taken, but for n of its items."""

    @abstractmethod
    def delay(self, seconds: float) -> None:
        """From now on each request is taken after so long."""

    @abstractmethod
    def work(self) -> None:
        """From now on each request is taken."""

    @abstractmethod
    def wait_for(self, condition: Callable[[], object]) -> None:
        """Returns when it holds; asked after each request."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def sums(self) -> dict[str, int]:
        """The last value of each series, by its name."""

    @abstractmethod
    def numbers(self) -> list[int]:
        """The events that came, in their order."""

    @abstractmethod
    def items(self, unit: str, *, accepted: bool) -> int:
        """Points or events in all requests that were taken, or in those that were not."""

    @abstractmethod
    def requests(self, unit: str, *, accepted: bool) -> int: ...

    @abstractmethod
    def faults(self, *, zero_first: bool = True) -> list[str]:
        """What is wrong with what came, by the protocol's own rules."""

    @abstractmethod
    def authorizations(self) -> list[str | None]:
        """The Authorization of each request."""
