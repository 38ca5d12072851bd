"""The values of one metric over all series of a table, and what has become of what was added.

A column is indexed by the rows of its SeriesTable. `total` is summed from what comes in, apart from
the values themselves: live + retired + overflow = total is a proof, not a definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from retina_otel.model.batches import Histogram, Values
from retina_otel.model.signals import Fold, Kind, Metric

Rows = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Amount = int | float


@dataclass(frozen=True, slots=True)
class Sums:
    """What was added to a metric since start, and what of it went into series that were freed."""

    total: Amount
    retired: Amount
    adds_up: bool = True
    """False for gauges and up-down values: only the newest means something."""


class ValueColumn(Protocol):
    """Values of one metric by row of a table."""

    present: npt.NDArray[np.bool_]
    """By row: the metric has been reported for it."""

    def grow(self, capacity: int) -> None: ...

    def add(self, rows: Rows, values: Values, sequence: int) -> None:
        """Credits each value to a row. `sequence` is the number of the window."""

    def retire(self, rows: Rows) -> None:
        """Clears rows whose series are freed, and remembers what they had."""

    def publish(self, count: int) -> Values:
        """A copy of the first `count` rows that nobody can change."""

    @property
    def sums(self) -> Sums: ...


def column_for(metric: Metric, capacity: int) -> ValueColumn:
    if metric.kind is Kind.COUNTER:
        return CounterColumn(metric, capacity)
    if metric.kind is Kind.HISTOGRAM:
        return HistogramColumn(metric, capacity)
    return CurrentColumn(metric, capacity)


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.flags.writeable = False
    return array


def grown(array: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    wider = np.zeros((capacity, *array.shape[1:]), array.dtype)
    wider[: len(array)] = array
    return wider


def _dtype(metric: Metric) -> type[np.int64] | type[np.float64]:
    return np.int64 if metric.integer else np.float64


class CounterColumn:
    """Sums of deltas."""

    def __init__(self, metric: Metric, capacity: int) -> None:
        self.present = np.zeros(capacity, np.bool_)
        self._values: npt.NDArray[Any] = np.zeros(capacity, _dtype(metric))
        self._sums = Sums(0, 0)

    def grow(self, capacity: int) -> None:
        self.present = grown(self.present, capacity)
        self._values = grown(self._values, capacity)

    def add(self, rows: Rows, values: Values, sequence: int) -> None:
        if isinstance(values, Histogram):
            raise TypeError("a counter takes a column of numbers")
        deltas = values.astype(self._values.dtype, copy=False)
        np.add.at(self._values, rows, deltas)
        self.present[rows] = True
        self._sums = Sums(self._sums.total + deltas.sum().item(), self._sums.retired)

    def retire(self, rows: Rows) -> None:
        lost = self._values[rows].sum().item()
        self._values[rows] = 0
        self.present[rows] = False
        self._sums = Sums(self._sums.total, self._sums.retired + lost)

    def publish(self, count: int) -> Values:
        return frozen(self._values[:count].copy())

    @property
    def sums(self) -> Sums:
        return self._sums


class CurrentColumn:
    """Readings that replace those of the window before; within a window they are folded."""

    sums = Sums(0, 0, adds_up=False)

    def __init__(self, metric: Metric, capacity: int) -> None:
        self.present = np.zeros(capacity, np.bool_)
        self._fold = Fold.SUM if metric.kind is Kind.UPDOWN else metric.fold
        self._values: npt.NDArray[Any] = np.zeros(capacity, _dtype(metric))
        self._window: npt.NDArray[np.int64] = np.zeros(capacity, np.int64)

    def grow(self, capacity: int) -> None:
        self.present = grown(self.present, capacity)
        self._values = grown(self._values, capacity)
        self._window = grown(self._window, capacity)

    def add(self, rows: Rows, values: Values, sequence: int) -> None:
        if isinstance(values, Histogram):
            raise TypeError("a gauge takes a column of numbers")
        readings = values.astype(self._values.dtype, copy=False)
        if self._fold is Fold.LAST:
            # Of several assignments to one place numpy keeps the last.
            self._values[rows] = readings
        else:
            anew = rows[self._window[rows] != sequence]
            if self._fold is Fold.SUM:
                self._values[anew] = 0
                np.add.at(self._values, rows, readings)
            else:
                integer = self._values.dtype.kind == "i"
                self._values[anew] = np.iinfo(np.int64).min if integer else -np.inf
                np.maximum.at(self._values, rows, readings)
        self._window[rows] = sequence
        self.present[rows] = True

    def retire(self, rows: Rows) -> None:
        self._values[rows] = 0
        self._window[rows] = 0
        self.present[rows] = False

    def publish(self, count: int) -> Values:
        return frozen(self._values[:count].copy())


class HistogramColumn:
    """Sums of bucket counts and of the values behind them. `sums` are of the counts."""

    def __init__(self, metric: Metric, capacity: int) -> None:
        self.present = np.zeros(capacity, np.bool_)
        self._counts: npt.NDArray[np.int64] = np.zeros(
            (capacity, len(metric.boundaries) + 1), np.int64
        )
        self._value_sums: npt.NDArray[np.float64] = np.zeros(capacity, np.float64)
        self._sums = Sums(0, 0)

    def grow(self, capacity: int) -> None:
        self.present = grown(self.present, capacity)
        self._counts = grown(self._counts, capacity)
        self._value_sums = grown(self._value_sums, capacity)

    def add(self, rows: Rows, values: Values, sequence: int) -> None:
        if not isinstance(values, Histogram):
            raise TypeError("a histogram takes bucket counts and sums")
        for bucket in range(self._counts.shape[1]):
            np.add.at(self._counts[:, bucket], rows, values.counts[:, bucket])
        np.add.at(self._value_sums, rows, values.sums)
        self.present[rows] = True
        self._sums = Sums(self._sums.total + int(values.counts.sum()), self._sums.retired)

    def retire(self, rows: Rows) -> None:
        lost = int(self._counts[rows].sum())
        self._counts[rows] = 0
        self._value_sums[rows] = 0.0
        self.present[rows] = False
        self._sums = Sums(self._sums.total, self._sums.retired + lost)

    def publish(self, count: int) -> Values:
        return Histogram(
            counts=frozen(self._counts[:count].copy()),
            sums=frozen(self._value_sums[:count].copy()),
        )

    @property
    def sums(self) -> Sums:
        return self._sums
