"""LateIdentity: what may yet become known waits, instead of being credited to nobody or to the
wrong one.

Two things may come late. Whose a local end is: such rows of deltas wait for at most `max_windows`
windows, then they stay credited to unknown. And who has an address: what was seen in the last
`EndpointTable.settle_after_ns` waits until that time is over; where it can't, its ends stay unknown
rather than go to whoever had the address before. Rows are resolved again at each end of a window.
Only what has not been credited is held, so no value ever moves from one series to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from retina_otel.model.batches import UNKNOWN_ROW, EventBatch, How, MetricBatch, RawEnds
from retina_otel.model.signals import Kind
from retina_otel.pipeline.identity.endpoints import EndpointKind, EndpointTable

_Mask = npt.NDArray[np.bool_]
AnyBatch = TypeVar("AnyBatch", MetricBatch, EventBatch)

_UNKNOWN_KIND = EndpointKind.UNKNOWN.value
_WAITING_KINDS = (Kind.COUNTER, Kind.HISTOGRAM)
_BY_ADDRESS = np.isin(list(How), [How.ADDRESS, How.BACKEND, How.AMBIGUOUS])
_LONGEST_WINDOW = 8
"""How many times as long as others a window may be."""
_MOVING = np.isin([kind.value for kind in EndpointKind], [_UNKNOWN_KIND, EndpointKind.POD.value])
"""By `EndpointKind`. Nodes and services do not change their addresses within seconds."""
_AROUND = np.isin(
    [kind.value for kind in EndpointKind], [EndpointKind.CIDR.value, EndpointKind.WORLD.value]
)
"""Of these is an address that nobody has: near those of pods it may be a new pod's."""


def lives_here(ends: RawEnds) -> _Mask:
    """Whether an end is on this node, behind an interface or in a namespace: someone will say
    whose."""
    here: _Mask = ends.ifindex != 0
    return here if ends.netns is None else here | (ends.netns != 0)


@dataclass(frozen=True, slots=True)
class LateSettings:
    max_windows: int = 2
    """How many ends of windows a row waits for at most until it is known whose a local end is."""
    max_rows: int = 100_000
    """How many rows wait at most; beyond that they are passed on at once."""


@dataclass(slots=True)
class _Waiting(Generic[AnyBatch]):
    batch: AnyBatch
    due_ns: int
    """Nothing can change before; 0 while somebody may say whose a local end is."""
    windows: int = 0


class LateIdentity(Generic[AnyBatch]):
    """A stage behind the processors. Tick thread only."""

    def __init__(
        self,
        resolve: Callable[[AnyBatch], AnyBatch | None],
        settings: LateSettings | None = None,
        *,
        endpoints: EndpointTable | None = None,
    ) -> None:
        """`resolve` is what sets the rows of ends; it may leave rows out. Without `endpoints`
        nothing waits for addresses."""
        self.settings = settings or LateSettings()
        self.held = 0
        """Rows that wait now."""
        self.unsettled = 0
        """Rows, since start, that could not wait: ends that might have been wrong are unknown."""
        self._resolve: Callable[[AnyBatch], AnyBatch | None] = resolve
        self._endpoints = endpoints
        self._waiting: list[_Waiting[AnyBatch]] = []

    def pass_on(self, batch: AnyBatch) -> AnyBatch | None:
        """The rows of a resolved batch that need not wait; None if there are none."""
        now_ns = batch.window.end_ns
        unsettled = self._unsettled(batch, now_ns)
        waits = unsettled if unsettled is not None else np.zeros(len(batch), np.bool_)
        if self.settings.max_windows > 0:
            waits = waits | _open(batch)
        wanted = int(np.count_nonzero(waits))
        if wanted == 0:
            return batch
        if self.held + wanted > self.settings.max_rows:
            return self._given_up(batch, unsettled)
        self._wait(batch.at(waits), windows=0)
        return batch.at(~waits) if wanted < len(batch) else None

    def release(self, now_ns: int) -> Iterator[AnyBatch]:
        """What need not wait any longer at the end of a window, `now_ns`. What `resolve` leaves out
        is no longer held either."""
        waiting, self._waiting = self._waiting, []
        self.held = 0
        for item in waiting:
            item.windows += 1
            if now_ns < item.due_ns and item.windows < self._windows_to_settle(item.batch):
                self._waiting.append(item)
                self.held += len(item.batch)
                continue
            batch = self._resolve(item.batch)
            if batch is None:
                continue
            waits = np.zeros(len(batch), np.bool_)
            unsettled = self._unsettled(batch, now_ns)
            if item.windows < self.settings.max_windows:
                waits |= _open(batch)
            if unsettled is not None and item.windows < self._windows_to_settle(batch):
                waits |= unsettled
                unsettled = None
            if not waits.any():
                yield self._given_up(batch, unsettled)
                continue
            if not waits.all():
                rest = ~waits
                yield self._given_up(batch.at(rest), None if unsettled is None else unsettled[rest])
            self._wait(batch.at(waits), item.windows)

    def release_all(self, now_ns: int) -> Iterator[AnyBatch]:
        """All that waits, resolved once more: the pipeline ends."""
        waiting, self._waiting = self._waiting, []
        self.held = 0
        for item in waiting:
            batch = self._resolve(item.batch)
            if batch is not None:
                yield self._given_up(batch, self._unsettled(batch, now_ns))

    def _wait(self, batch: AnyBatch, windows: int) -> None:
        due_ns = 0
        if self._endpoints is not None and not _open(batch).any():
            due_ns = int(_last_ns(batch).min()) + self._endpoints.settle_after_ns
        self._waiting.append(_Waiting(batch, due_ns, windows))
        self.held += len(batch)

    def _windows_to_settle(self, batch: AnyBatch) -> int:
        """Enough for time to pass, also where a late tick has made this window much longer than
        those to come; a clock that steps back holds nothing for longer."""
        if self._endpoints is None:
            return 0
        window_ns = max(1, batch.window.end_ns - batch.window.start_ns)
        return 2 + _LONGEST_WINDOW * self._endpoints.settle_after_ns // window_ns

    def _unsettled(self, batch: AnyBatch, now_ns: int) -> _Mask | None:
        """Rows with an end of which it may turn out that another had its address; None if there
        are none."""
        if self._endpoints is None or not self._endpoints.settle_after_ns or not _waits(batch):
            return None
        latest: _Mask = _last_ns(batch) > now_ns - self._endpoints.settle_after_ns
        if not latest.any():
            return None
        found = np.zeros(len(batch), np.bool_)
        for end in ("source", "destination"):
            found |= self._may_move(batch, end)
        found &= latest
        return found if found.any() else None

    def _may_move(self, batch: AnyBatch, end: str) -> _Mask:
        ends, rows = getattr(batch, end), getattr(batch, f"{end}_rows")
        how = getattr(batch, f"{end}_how")
        if ends is None or rows is None or how is None:
            return np.zeros(len(batch), np.bool_)
        assert self._endpoints is not None
        kinds = self._endpoints.kinds(rows)
        by_address: _Mask = _BY_ADDRESS[how] & _MOVING[kinds]
        around = np.flatnonzero(_BY_ADDRESS[how] & _AROUND[kinds])
        if around.size:
            hi, lo = _asked_for(ends, how == How.BACKEND)
            by_address[around] = self._endpoints.near_pods(hi[around], lo[around])
        by_address |= (how == How.NOBODY) & ~lives_here(ends)
        return by_address

    def _given_up(self, batch: AnyBatch, unsettled: _Mask | None) -> AnyBatch:
        if unsettled is None:
            return batch
        self.unsettled += int(np.count_nonzero(unsettled))
        changes: dict[str, Any] = {}
        for end in ("source", "destination"):
            rows, how = getattr(batch, f"{end}_rows"), getattr(batch, f"{end}_how")
            if rows is not None and how is not None:
                wrong = unsettled & self._may_move(batch, end)
                changes[f"{end}_rows"] = np.where(wrong, np.int32(UNKNOWN_ROW), rows)
                wrong &= how != How.AMBIGUOUS
                changes[f"{end}_how"] = np.where(wrong, np.uint8(How.UNKNOWN), how)
        return replace(batch, **changes)


def _asked_for(ends: RawEnds, behind: _Mask) -> tuple[npt.NDArray[np.uint64], ...]:
    """The address by which each end is known: its own, or that behind it."""
    if ends.behind_hi is None or ends.behind_lo is None:
        return ends.hi, ends.lo
    return np.where(behind, ends.behind_hi, ends.hi), np.where(behind, ends.behind_lo, ends.lo)


def _waits(batch: MetricBatch | EventBatch) -> bool:
    """Values that are of now can't be credited later."""
    return isinstance(batch, EventBatch) or all(
        metric.kind in _WAITING_KINDS for metric in batch.values
    )


def _last_ns(batch: MetricBatch | EventBatch) -> npt.NDArray[np.int64]:
    if isinstance(batch, EventBatch):
        return batch.time_ns
    if batch.last_ns is None:
        return np.broadcast_to(np.int64(batch.window.end_ns), len(batch))
    return batch.last_ns


def _open(batch: MetricBatch | EventBatch) -> _Mask:
    """Rows of deltas with a local end of which it is not known whose it is."""
    open_: _Mask = np.zeros(len(batch), np.bool_)
    if isinstance(batch, MetricBatch) and _waits(batch):
        for ends, rows in (
            (batch.source, batch.source_rows),
            (batch.destination, batch.destination_rows),
        ):
            if ends is not None:
                unknown = np.True_ if rows is None else rows == UNKNOWN_ROW
                open_ |= unknown & lives_here(ends)
    return open_
