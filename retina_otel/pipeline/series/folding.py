"""Folding: how much finds no series of its own, by metric and namespace.

The namespace is that of the workload that was measured: the source's of what leaves it, the
destination's of what enters it. The bytes folded add up to the overflow series of their metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import EMPTY_SET, AttributeSets
from retina_otel.model.batches import Column, Histogram, MetricBatch
from retina_otel.model.signals import (
    K8S_NAMESPACE_NAME,
    NETWORK_INTERFACE_DIRECTION,
    Ends,
    Kind,
    Metric,
)
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.series.projection import Choice, EndProjection

MOST_NAMESPACES = 1000
"""Of which the bytes folded are told apart; what comes later counts as if it had none."""

_INGRESS = "ingress"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

_Ids = npt.NDArray[np.int32]
_Rows = npt.NDArray[np.int64]
_Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Folded:
    """What of a batch went to the overflow series of a table."""

    rows: _Rows
    keys: _Keys
    """Distinct keys of series that there was no room for."""
    first: _Rows
    """A row of the batch for each of them."""


def weights(batch: MetricBatch) -> npt.NDArray[np.float64]:
    """By row, what decides who gets a series: bytes where there are any, else the first counter."""
    chosen = min(batch.values, key=lambda m: (m.kind is not Kind.COUNTER, m.unit != "By"))
    values = batch.values[chosen]
    if isinstance(values, Histogram):
        values = values.counts.sum(axis=1)
    heavy: npt.NDArray[np.float64] = values.astype(np.float64)
    return heavy


FoldedOf = tuple[str, str]
"""Names of a metric and of a namespace, which is empty where there is none."""


@dataclass(slots=True)
class _Window:
    """Of the metrics of one table in the window that runs."""

    namespaces: list[_Ids] = field(default_factory=list)
    keys: list[_Keys] = field(default_factory=list)


class Folding:
    """Tick thread only; `series` is for all."""

    def __init__(self, endpoints: EndpointTable, sets: AttributeSets) -> None:
        self._sets = sets
        choice = Choice(Ends.ONE, (K8S_NAMESPACE_NAME.name,), frozenset())
        self._end = EndProjection(endpoints, sets, choice, "")
        self._windows: dict[tuple[Metric, ...], _Window] = {}
        self.series: dict[FoldedOf, int] = {}
        """Distinct series that there was no room for in the newest window."""
        self.io: dict[FoldedOf, int | float] = {}
        """Bytes folded since the start."""
        self._told: set[str] = set()

    def namespaces(self, batch: MetricBatch, rows: _Rows) -> _Ids:
        """For some rows of a batch, the set with the namespace to which each counts."""
        source = self._of(batch.source_rows, rows)
        if batch.destination_rows is None:
            return source
        direction = batch.own.get(NETWORK_INTERFACE_DIRECTION.name)
        if not isinstance(direction, Column):
            other = source == EMPTY_SET
        else:
            entering = np.array([value == _INGRESS for value in direction.values] + [False])
            other = entering[direction.codes[rows]]
        source[other] = self._of(batch.destination_rows, rows[other])
        return source

    def note(self, metrics: Iterable[Metric], batch: MetricBatch, folded: Folded) -> None:
        """Takes in what was folded of the metrics of one table."""
        window = self._windows.setdefault(tuple(metrics), _Window())
        window.namespaces.append(self.namespaces(batch, folded.first))
        window.keys.append(folded.keys)
        amounts = {metric: batch.values[metric] for metric in metrics if metric.unit == "By"}
        if not amounts:
            return
        namespaces = self.namespaces(batch, folded.rows)
        for metric, values in amounts.items():
            if metric.kind is not Kind.COUNTER or isinstance(values, Histogram):
                continue
            sums = np.zeros(int(namespaces.max(initial=0)) + 1, values.dtype)
            np.add.at(sums, namespaces, values[folded.rows])
            for number in np.flatnonzero(sums).tolist():
                key = (metric.name, self._remembered(self._name(number)))
                self.io[key] = self.io.get(key, 0) + sums[number].item()

    def end_window(self) -> None:
        """Counts what was folded in the window that ends, and begins the next."""
        windows, self._windows = self._windows, {}
        series: dict[FoldedOf, int] = {}
        for metric in {metric for metrics in windows for metric in metrics}:
            parts = [window for metrics, window in windows.items() if metric in metrics]
            for number, count in _distinct(parts):
                series[metric.name, self._name(number)] = count
        # As a whole: others than the tick thread go through it.
        self.series = series

    def _of(self, endpoints: _Ids | None, rows: _Rows) -> _Ids:
        if endpoints is None:
            return np.full(len(rows), EMPTY_SET, np.int32)
        return self._end.ids(endpoints[rows])

    def _remembered(self, namespace: str) -> str:
        if namespace not in self._told:
            if len(self._told) >= MOST_NAMESPACES:
                return ""
            self._told.add(namespace)
        return namespace

    def _name(self, number: int) -> str:
        return "".join(str(value) for _, value in self._sets.get(number))


def _distinct(parts: Sequence[_Window]) -> Iterator[tuple[int, int]]:
    """Sets of namespaces, and how many series of each were folded."""
    namespaces = np.concatenate([one for part in parts for one in part.namespaces])
    batches = [one for part in parts for one in part.keys]
    if len(batches) > 1:
        keys = np.concatenate(batches) ^ (namespaces.astype(np.uint64) * _MULTIPLIER)
        namespaces = namespaces[np.unique(keys, return_index=True)[1]]
    counts = np.bincount(namespaces)
    for number in np.flatnonzero(counts).tolist():
        yield number, int(counts[number])
