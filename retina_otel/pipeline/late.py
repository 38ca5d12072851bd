"""LateIdentity: rows whose end may yet become known wait as deltas, instead of counting as unknown.

A pod's first packets are often counted before anybody has said whose they are. Such rows are held
back for at most `max_windows` windows and `max_rows` rows, resolved again at each end of a window,
and passed on once known or when their time is up: then they stay credited to unknown. Only what has
not been credited is held, so no value ever moves from one series to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.model.batches import UNKNOWN_ROW, MetricBatch, RawEnds
from retina_otel.model.signals import Kind

_Mask = npt.NDArray[np.bool_]

_WAITING_KINDS = (Kind.COUNTER, Kind.HISTOGRAM)


def lives_here(ends: RawEnds) -> _Mask:
    """Whether an end is on this node, behind an interface or in a namespace: someone will say
    whose."""
    here: _Mask = ends.ifindex != 0
    return here if ends.netns is None else here | (ends.netns != 0)


@dataclass(frozen=True, slots=True)
class LateSettings:
    max_windows: int = 2
    """How many ends of windows a row waits for at most."""
    max_rows: int = 100_000
    """How many rows wait at most; beyond that they count as unknown at once."""


@dataclass(slots=True)
class _Waiting:
    batch: MetricBatch
    windows: int = 0


class LateIdentity:
    """A stage between processors and accumulator. Tick thread only."""

    def __init__(
        self,
        resolve: Callable[[MetricBatch], MetricBatch | None],
        settings: LateSettings | None = None,
        may_become_known: Callable[[RawEnds], _Mask] = lives_here,
    ) -> None:
        """`resolve` is what sets the rows of ends; it keeps the number of rows."""
        self.settings = settings or LateSettings()
        self.held = 0
        """Rows that wait now."""
        self._resolve = resolve
        self._may_become_known = may_become_known
        self._waiting: list[_Waiting] = []

    def pass_on(self, batch: MetricBatch) -> MetricBatch | None:
        """The rows of a resolved batch that need not wait; None if there are none."""
        open_ = self._open(batch)
        wanted = int(np.count_nonzero(open_))
        if wanted == 0 or self.held + wanted > self.settings.max_rows:
            return batch
        self._waiting.append(_Waiting(batch.at(open_)))
        self.held += wanted
        return batch.at(~open_) if wanted < len(batch) else None

    def release(self) -> Iterator[MetricBatch]:
        """What need not wait any longer at the end of a window, those that are known first."""
        waiting, self._waiting = self._waiting, []
        self.held = 0
        for item in waiting:
            batch = self._resolve(item.batch) or item.batch
            item.windows += 1
            if item.windows >= self.settings.max_windows:
                yield batch
                continue
            open_ = self._open(batch)
            if not open_.all():
                yield batch.at(~open_)
            if open_.any():
                item.batch = batch.at(open_)
                self._waiting.append(item)
                self.held += len(item.batch)

    def release_all(self) -> Iterator[MetricBatch]:
        """All that waits, resolved once more: the pipeline ends."""
        for item in self._waiting:
            item.windows = self.settings.max_windows
        return self.release()

    def _open(self, batch: MetricBatch) -> _Mask:
        open_: _Mask = np.zeros(len(batch), np.bool_)
        if all(metric.kind in _WAITING_KINDS for metric in batch.values):
            for ends, rows in (
                (batch.source, batch.source_rows),
                (batch.destination, batch.destination_rows),
            ):
                if ends is not None:
                    unknown = np.True_ if rows is None else rows == UNKNOWN_ROW
                    open_ |= unknown & self._may_become_known(ends)
        return open_
