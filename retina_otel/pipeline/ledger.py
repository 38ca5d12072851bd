"""Double-entry book-keeping of what was seen: it must equal what came out, what was left out, what
was lost.

    seen = drained + filtered + sampled + sum(not_ours) + sum(lost) + held

All accounts are cumulative raw counts since start (packets for `flows`, events for others).
`drained` is summed from the rows that were read, never computed by subtraction: that is what makes
the equation a proof. Written by the tick thread, read by anyone (`report()` is a copy).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What an exporter did with the items of one unit. All counts grow from the start on."""

    exported: int = 0
    """Items that the backend took."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Items that it never got, by why: the part of `lost` that is of this unit."""
    may_fail: frozenset[str] = frozenset()
    """All that may come to stand in `failed`."""
    requests: int = 0
    """Requests, or writes, that were tried, those in `request_failures` among them."""
    request_failures: Mapping[str, int] = field(default_factory=dict)
    """Requests that did not pass as a whole, by why."""
    request_bytes: int = 0
    """In all of them, before compression."""


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """A ledger at one moment. `unit` is what is counted: packets, events, points."""

    name: str
    unit: str
    seen: int
    drained: int
    filtered: int
    sampled: int
    not_ours: Mapping[str, int]
    lost: Mapping[str, int]
    beside: Mapping[str, int]
    """Known, but outside the equation: before_attach, recursion misses."""
    held: int = 0
    """Read, but kept back until it is known what they are; the next ticks move them to an
    account."""
    coverage: Mapping[str, float] = field(default_factory=dict)
    """Counted packets over the interface's own, by interface (only where it could be judged)."""
    compared: Mapping[str, int] = field(default_factory=dict)
    """The interface's own packets that its coverage rests on, by interface."""
    exports: Mapping[str, ExportCounts] = field(default_factory=dict)
    """By unit ("points", "events"), for exporters only."""
    may_lose: frozenset[str] = frozenset()
    """All that may come to stand in `lost`."""

    @property
    def difference(self) -> int:
        """Zero when the books close."""
        return self.seen - (
            self.drained
            + self.filtered
            + self.sampled
            + sum(self.not_ours.values())
            + sum(self.lost.values())
            + self.held
        )


class Ledger:
    """The accounts of one receiver, pipeline or exporter."""

    def __init__(self, name: str, unit: str) -> None:
        self.name = name
        self.unit = unit
        self._lock = threading.Lock()
        self._accounts: Counter[str] = Counter()
        self._not_ours: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._beside: dict[str, int] = {}
        self._compared: dict[str, tuple[int, int]] = {}
        self._held = 0
        self._may_lose: set[str] = set()
        self._may_fail: dict[str, set[str]] = {}
        self._exported: Counter[str] = Counter()
        self._failed: dict[str, Counter[str]] = {}
        self._requests: Counter[str] = Counter()
        self._request_failures: dict[str, Counter[str]] = {}
        self._request_bytes: Counter[str] = Counter()

    def may_lose(self, *reasons: str) -> None:
        """Declares why something may be lost here, before anything is: a counter that is there
        with a 0 has an increase at its first loss, one that begins with it has none."""
        with self._lock:
            self._may_lose.update(reasons)

    def may_fail(self, unit: str, *reasons: str) -> None:
        """As `may_lose`, for the items of one unit that are exported."""
        with self._lock:
            self._may_fail.setdefault(unit, set()).update(reasons)
            self._may_lose.update(f"{unit}_{why}" for why in reasons)

    def add(
        self,
        *,
        seen: int = 0,
        drained: int = 0,
        filtered: int = 0,
        sampled: int = 0,
        not_ours: Mapping[str, int] | None = None,
        lost: Mapping[str, int] | None = None,
        held: int = 0,
    ) -> None:
        """Adds deltas, all at once, so that a report never sees half of a tick; `held` may be
        negative."""
        with self._lock:
            self._accounts.update(seen=seen, drained=drained, filtered=filtered, sampled=sampled)
            self._held += held
            if not_ours:
                self._not_ours.update(not_ours)
            if lost:
                self._lost.update(lost)

    def add_export(
        self,
        unit: str,
        *,
        exported: int,
        failed: Mapping[str, int],
        superseded: int = 0,
        held: int = 0,
    ) -> None:
        """Books the items of one export that has ended: those that were sent, those that never
        will be, by why, and those of which newer ones are sent instead. `unit` tells points and
        events apart in `lost` and `not_ours`. So many of them as `held` says were seen and held
        before."""
        failures = {why: n for why, n in failed.items() if n}
        with self._lock:
            n_failed = sum(failures.values())
            self._accounts.update(seen=exported + superseded + n_failed - held, drained=exported)
            self._held -= held
            if superseded:
                self._not_ours[f"{unit}_superseded"] += superseded
            self._lost.update({f"{unit}_{why}": n for why, n in failures.items()})
            self._exported[unit] += exported
            self._failed.setdefault(unit, Counter()).update(failures)

    def count_request(self, unit: str, n_bytes: int, error_type: str = "") -> None:
        """One request with items of this unit has ended; an `error_type` says how it failed."""
        with self._lock:
            self._requests[unit] += 1
            self._request_bytes[unit] += n_bytes
            failures = self._request_failures.setdefault(unit, Counter())
            if error_type:
                failures[error_type] += 1

    def set_beside(self, name: str, value: int) -> None:
        with self._lock:
            self._beside[name] = value

    def set_coverage(self, compared: Mapping[str, tuple[int, int]]) -> None:
        """By interface, packets counted there and the interface's own, which are not 0."""
        with self._lock:
            self._compared = dict(compared)

    def report(self) -> LedgerReport:
        with self._lock:
            return LedgerReport(
                name=self.name,
                unit=self.unit,
                seen=self._accounts["seen"],
                drained=self._accounts["drained"],
                filtered=self._accounts["filtered"],
                sampled=self._accounts["sampled"],
                not_ours=dict(self._not_ours),
                lost=dict(self._lost),
                beside=dict(self._beside),
                held=self._held,
                coverage={name: seen / own for name, (seen, own) in self._compared.items()},
                compared={name: own for name, (_, own) in self._compared.items()},
                may_lose=frozenset(self._may_lose),
                exports={
                    unit: ExportCounts(
                        exported=self._exported[unit],
                        failed=dict(self._failed.get(unit, {})),
                        may_fail=frozenset(self._may_fail.get(unit, ())),
                        requests=self._requests[unit],
                        request_failures=dict(self._request_failures.get(unit, {})),
                        request_bytes=self._request_bytes[unit],
                    )
                    for unit in self._exported.keys()
                    | self._requests.keys()
                    | self._may_fail.keys()
                },
            )
