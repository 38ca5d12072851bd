"""Readers whose exports have the names of the conventions' draft: the one place that renames.

Everything up to here, configuration among it, knows signals by the names that are released or ours;
exporters know nothing of it. Which names: `retina_otel.model.preview`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import AttributeSet, AttributeSets
from retina_otel.model.preview import ATTRIBUTES, METRICS, PREVIEW_SCOPE
from retina_otel.model.signals import Event, Metric
from retina_otel.pipeline.points import EventsExport, EventsReader, MetricsExport, MetricsReader

S = TypeVar("S", Metric, Event)
_RENAMED: Hashable = "names of the draft"


class PreviewSets(AttributeSets):
    """The sets of an accumulator or an event buffer with renamed keys. For reading."""

    __slots__ = ("_of",)

    def __init__(self, of: AttributeSets) -> None:
        super().__init__()
        self._of = of

    def __len__(self) -> int:
        return len(self._of)

    def get(self, number: int) -> AttributeSet:
        attributes = self._of.get(number)
        if not any(key in ATTRIBUTES for key, _ in attributes):
            return attributes
        return tuple(sorted((ATTRIBUTES.get(key, key), value) for key, value in attributes))

    def version(self, number: int) -> int:
        return self._of.version(number)

    def digests(
        self, numbers: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint64]:
        return self._of.digests(numbers)

    def versions(
        self, numbers: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int32]:
        return self._of.versions(numbers)


class PreviewMetrics:
    """A MetricsReader. Exports that others are given too are renamed once for all of them."""

    def __init__(self, reader: MetricsReader, sets: PreviewSets) -> None:
        """`sets` are those of the accumulator that `reader` reads."""
        self._reader = reader
        self._sets = sets

    def take(self) -> MetricsExport | None:
        export = self._reader.take()
        return export and export.once.get(_RENAMED, lambda: self._renamed(export))

    def let_go(self) -> None:
        self._reader.let_go()

    def acknowledge(self, export: MetricsExport) -> None:
        self._reader.acknowledge(export)

    def _renamed(self, export: MetricsExport) -> MetricsExport:
        blocks = [
            replace(block, metric=renamed(block.metric), sets=self._sets) for block in export.blocks
        ]
        return MetricsExport(export.sequence, blocks)


class PreviewEvents:
    """An EventsReader, as PreviewMetrics."""

    def __init__(self, reader: EventsReader, sets: PreviewSets) -> None:
        self._reader = reader
        self._sets = sets

    def take(self, max_bytes: int) -> EventsExport | None:
        export = self._reader.take(max_bytes)
        return export and export.once.get(_RENAMED, lambda: self._renamed(export))

    def let_go(self) -> None:
        self._reader.let_go()

    def acknowledge(self, export: EventsExport) -> None:
        self._reader.acknowledge(export)

    @property
    def shed(self) -> int:
        return self._reader.shed

    def _renamed(self, export: EventsExport) -> EventsExport:
        blocks = [
            replace(block, event=renamed(block.event), sets=self._sets) for block in export.blocks
        ]
        return EventsExport(export.sequence, blocks)


@lru_cache(maxsize=256)
def renamed(signal: S) -> S:
    """The signal as it is told: another name where the draft has one, and another scope where it
    has or may have one of the draft's names."""
    attributes = tuple(
        replace(one, name=ATTRIBUTES.get(one.name, one.name)) for one in signal.attributes
    )
    name = METRICS.get(signal.name, signal.name)
    if (name, attributes) == (signal.name, signal.attributes):
        return signal
    return replace(signal, name=name, attributes=attributes, scope=PREVIEW_SCOPE)
