"""A lane brings what one reader gives to one backend, one request a step, without ever sleeping.

An export is acknowledged only when each of its requests was accepted or refused for good. A request
that is too large is halved at a boundary between items, and the size that passed is kept for all
later ones. What must wait for its backend waits as packed requests: it keeps no attribute set of
the pipeline alive. What differs between metrics and events is in `lanes`.
"""

from __future__ import annotations

import contextlib
import random
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from retina_otel.delivery.outcome import Clock, Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.report import DeliveryReport
from retina_otel.delivery.retry import Backoff, RetryPolicy
from retina_otel.delivery.sender import Sender
from retina_otel.delivery.sharing import Encode, Sharing
from retina_otel.pipeline.points import EventsExport, MetricsExport

_S = 10**9
_SMALLEST_REQUEST = 1024
_FLUSH_DELAY_S = 0.25

Split = Callable[[bytes], tuple[bytes, bytes] | None]
"""Two requests of n // 2 and n - n // 2 items, in order; None for what can't be divided."""


def indivisible(body: bytes) -> None:
    """For what is never too large."""


Export = TypeVar("Export", MetricsExport, EventsExport)


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """What the lanes of one exporter have in common."""

    clock: Clock
    report: DeliveryReport
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    sharing: Sharing = field(default_factory=Sharing)
    aligned: bool = False
    """Begin where all exporters of the agent do, instead of at once."""
    random: random.Random = field(default_factory=random.Random)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where the lanes of one signal lead."""

    encode: Callable[[], Encode]
    """Makes an encoder: one for each lane, or one for all that share it."""
    sender: Sender
    interval_s: float
    split: Split = indivisible
    timeout_s: float = 10.0
    """For one request."""
    max_bytes: int = 4 << 20
    """Largest request before compression."""
    shared: Hashable | None = None
    """Exporters whose packed requests are the same bytes for the same data have equal keys. What is
    the same for all of an agent, as the resource, need not be in it. None: nobody else's are."""


class Lane(ABC, Generic[Export]):
    """One step sends at most one request. `due_ns` says when the next step makes sense."""

    unit: str
    may_lose: tuple[str, ...] = (
        "rejected",
        "refused",
        "too_large",
        "expired",
        "not_encoded",
        "shutdown",
    )
    """Reasons for which items that it took may never reach the backend."""

    def __init__(self, name: str, route: Route, options: LaneOptions) -> None:
        self.name = name
        self.max_bytes = route.max_bytes
        self.finished = False
        """Set once a flush has nothing left to do."""
        self._route = route
        self._encoder = options.sharing.encoder(route.shared, route.encode)
        self._options = options
        self._clock = options.clock
        self._report = options.report
        self._report.may_lose(self.unit, self.may_lose)
        self._backoff = Backoff(options.retry, options.random)
        self._interval_ns = max(1, int(route.interval_s * _S))
        self._tick_ns = now = self._clock.monotonic_ns()
        """When the next export shall begin."""
        if options.aligned:
            offset_ns = int(options.sharing.phase * self._interval_ns)
            self._tick_ns += (offset_ns - now) % self._interval_ns
        self.due_ns = self._tick_ns
        self._export: Export | None = None
        self._n_items = 0
        """In the export, whether it still has its blocks or not."""
        self._requests: Iterator[Packed] = iter(())
        self._waiting: deque[Packed] = deque()
        """Requests that were packed and not yet settled, the next one first."""
        self._accepted = 0
        self._lost: Counter[str] = Counter()
        self._failing_since_ns: int | None = None
        self._passed_over_since_ns: int | None = None
        """Since when the backend takes others, but none of what is left of this request."""
        self._deadline_ns: int | None = None

    @abstractmethod
    def _take(self) -> Export | None: ...

    @abstractmethod
    def _size(self, export: Export) -> int: ...

    @abstractmethod
    def _without_blocks(self, export: Export) -> Export:
        """Lets go of the sets; what is left can still be acknowledged."""

    @abstractmethod
    def _acknowledge(self, export: Export) -> None: ...

    @abstractmethod
    def _gives_way(self, now: int) -> bool:
        """Whether a failing export may be given up for a newer one."""

    @abstractmethod
    def _overdue(self, now: int) -> None:
        """An export has failed for longer than the policy allows."""

    @abstractmethod
    def give_up(self) -> None:
        """Ends a flush whose time is over, and books what did not go out."""

    def begin_flush(self, deadline_ns: int) -> None:
        """From now on send only what is left; nothing begins after the monotonic deadline."""
        self._deadline_ns = deadline_ns
        self.due_ns = self._clock.monotonic_ns()

    def step(self) -> None:
        """Sends at most one request and sets `due_ns`."""
        now = self._clock.monotonic_ns()
        if self._deadline_ns is not None and now >= self._deadline_ns:
            self.give_up()
            return
        if self._failing_since_ns is not None and self._gives_way(now):
            self._settle(superseded=True)
        if self._export is None:
            self._tick_ns += ((now - self._tick_ns) // self._interval_ns + 1) * self._interval_ns
            self._export = self._take()
            if self._export is None:
                return
            self._n_items = self._size(self._export)
            self._requests = self._encoder.requests(
                self._export, self.max_bytes, self._route.sender.pack
            )
        request = self._next_request()
        if request is None:
            self._settle()
            self.due_ns = self._after_export(now)
            return
        timeout_s = self._route.timeout_s
        if self._deadline_ns is not None:
            timeout_s = max(0.05, min(timeout_s, (self._deadline_ns - now) / _S))
        outcome = self._route.sender.send(request, timeout_s)
        seconds = (self._clock.monotonic_ns() - now) / _S
        self._report.request(self.unit, request.raw_bytes, outcome, seconds)
        self._answered(request, outcome)

    def defect(self, message: str) -> None:
        """Something in here raised: the export is left, and begun anew at the next tick. In a flush
        there is none, so what is left is booked as lost."""
        outcome = Outcome(Result.RETRY, "internal", message)
        self._report.request(self.unit, 0, outcome)
        self._report.failed(self.name, outcome)
        self._forget()
        now = self._clock.monotonic_ns()
        self.due_ns = now + self._interval_ns
        if self._deadline_ns is not None:
            # The reader may be what raised; then nobody knows what is left.
            with contextlib.suppress(Exception):
                self.give_up()
            self.finished = True

    @abstractmethod
    def _after_export(self, now: int) -> int:
        """When to look again after an export was settled."""

    def _next_request(self) -> Packed | None:
        """The next request, cut to the size that the backend was found to take."""
        if not self._waiting:
            request = next(self._requests, None)
            if request is None:
                return None
            self._waiting.append(request)
        while self._waiting[0].raw_bytes > self.max_bytes:
            if not self._halve():
                break
        return self._waiting[0]

    def _halve(self) -> bool:
        """Cuts the next request in two; False if it is a single item."""
        request = self._waiting[0]
        halves = self._route.split(request.body())
        if halves is None:
            return False
        first = request.n_items // 2
        pack = self._route.sender.pack
        self._waiting.popleft()
        self._waiting.appendleft(pack(halves[1], request.n_items - first))
        self._waiting.appendleft(pack(halves[0], first))
        return True

    def _answered(self, request: Packed, outcome: Outcome) -> None:
        now = self._clock.monotonic_ns()
        self.due_ns = now
        if outcome.result is Result.ACCEPTED:
            if outcome.reason:
                self._report.warn(outcome)
            left = outcome.remainder
            n_settled = request.n_items - (left.n_items if left is not None else 0)
            rejected = min(outcome.rejected, n_settled)
            self._lost["rejected"] += rejected
            self._accepted += n_settled - rejected
            if left is not None:
                self._waiting[0] = left
                if n_settled or not self._passed_over_too_long(now):
                    self._failed(now, outcome)
                    return
                self._lost["expired"] += left.n_items
                self._report.failed(self.name, outcome)
                self._settled()
                return
            self._settled()
            self._report.passed(self.name)
        elif outcome.result is Result.TOO_LARGE and self._halve():
            self._report.warn(outcome)
            larger = max(self._waiting[0].raw_bytes, self._waiting[1].raw_bytes)
            self.max_bytes = max(_SMALLEST_REQUEST, min(self.max_bytes, larger))
        elif outcome.result is Result.RETRY:
            self._passed_over_since_ns = None
            self._failed(now, outcome)
        else:
            why = "refused" if outcome.result is Result.REFUSED else "too_large"
            self._lost[why] += request.n_items
            self._settled()
            self._report.failed(self.name, outcome)

    def _passed_over_too_long(self, now: int) -> bool:
        """Whether a backend that answers would leave these items for ever: no outage, which may be
        waited for, but items that it can't take, behind which all others would wait."""
        if self._passed_over_since_ns is None:
            self._passed_over_since_ns = now
        bound_s = self._options.retry.max_elapsed_s
        return bool(bound_s) and now - self._passed_over_since_ns > bound_s * _S

    def _settled(self) -> None:
        """The request in front is done with."""
        self._waiting.popleft()
        self._failing_since_ns = None
        self._passed_over_since_ns = None
        self._backoff.reset()

    def _failed(self, now: int, outcome: Outcome) -> None:
        self._report.failed(self.name, outcome)
        if self._failing_since_ns is None:
            self._failing_since_ns = now
        delay_s = self._backoff.next_delay_s(outcome.retry_after_s)
        if self._deadline_ns is not None and not outcome.retry_after_s:
            delay_s = min(delay_s, _FLUSH_DELAY_S)
        self.due_ns = now + int(delay_s * _S)
        if self._deadline_ns is not None:
            if self.due_ns >= self._deadline_ns:
                self.give_up()
            return
        if self._gives_way(self.due_ns):
            # Nobody will send this one again: what it keeps may go now, however long the pause.
            self._settle(superseded=True)
            return
        if not self._gives_way(self._tick_ns):
            self._keep_packed()
        bound_s = self._options.retry.max_elapsed_s
        if bound_s and self.due_ns - self._failing_since_ns > bound_s * _S:
            self._overdue(now)

    def _keep_packed(self) -> None:
        """This export is tried until it passes, however long that takes: as bytes alone."""
        assert self._export is not None
        self._waiting.extend(self._requests)
        self._export = self._without_blocks(self._export)

    def _settle(self, *, unsent: str = "not_encoded", superseded: bool = False) -> None:
        """Books the export and ends it. What no request has settled is superseded, or lost.

        Superseded points come again in newer form, so only then the export is not acknowledged.
        """
        assert self._export is not None
        left = self._n_items - self._accepted - self._lost.total()
        if not superseded:
            self._lost[unsent] += left
        self._report.settle(
            self.unit,
            accepted=self._accepted,
            lost=self._lost,
            superseded=left if superseded else 0,
        )
        if superseded:
            self._without_blocks(self._export)
        else:
            self._acknowledge(self._export)
        self._forget()

    def _forget(self) -> None:
        self._export = None
        self._n_items = 0
        self._requests = iter(())
        self._waiting.clear()
        self._accepted = 0
        self._lost = Counter()
        self._failing_since_ns = None
        self._passed_over_since_ns = None
