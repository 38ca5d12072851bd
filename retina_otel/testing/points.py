"""Builds point and event blocks from plain rows, for tests of exporters and encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import AttributeValue, Histogram, Values
from retina_otel.model.signals import Event, Kind, Metric
from retina_otel.pipeline.points import EventBlock, PointBlock, Temporality

Attributes = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Point:
    """One point. `buckets` and `value` (the sum) for a histogram, `value` alone for all else."""

    value: float = 0
    source: Attributes = field(default_factory=dict)
    destination: Attributes = field(default_factory=dict)
    own: Attributes = field(default_factory=dict)
    start_ns: int = 1_000_000_000
    time_ns: int = 2_000_000_000
    no_value: bool = False
    buckets: Sequence[int] = ()

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        return {**self.source, **self.destination, **self.own}


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One event. `integers` has the same keys for all events of a block."""

    source: Attributes = field(default_factory=dict)
    destination: Attributes = field(default_factory=dict)
    own: Attributes = field(default_factory=dict)
    integers: Mapping[str, int] = field(default_factory=dict)
    time_ns: int = 2_000_000_000

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        return {**self.source, **self.destination, **self.own, **self.integers}


def point_block(
    metric: Metric,
    points: Sequence[Point],
    *,
    temporality: Temporality = Temporality.CUMULATIVE,
    sets: AttributeSets | None = None,
) -> PointBlock:
    """`points` as a block. Give `sets` to share interned attribute sets between blocks."""
    sets = AttributeSets() if sets is None else sets
    values: Values
    if metric.kind is Kind.HISTOGRAM:
        buckets = len(metric.boundaries) + 1
        counts = np.array([p.buckets or (0,) * buckets for p in points], np.int64)
        sums = np.array([p.value for p in points], np.float64)
        values = Histogram(counts.reshape(len(points), buckets), sums)
    elif metric.integer:
        values = np.array([int(p.value) for p in points], np.int64)
    else:
        values = np.array([p.value for p in points], np.float64)
    return PointBlock(
        metric=metric,
        temporality=temporality,
        source=_interned(sets, [p.source for p in points]),
        destination=_interned(sets, [p.destination for p in points]),
        own=_interned(sets, [p.own for p in points]),
        start_ns=np.array([p.start_ns for p in points], np.int64),
        time_ns=np.array([p.time_ns for p in points], np.int64),
        values=values,
        no_value=np.array([p.no_value for p in points], bool),
        sets=sets,
    )


def event_block(
    event: Event,
    occurrences: Sequence[Occurrence],
    *,
    body: str = "",
    observed_ns: int = 3_000_000_000,
    sets: AttributeSets | None = None,
) -> EventBlock:
    """`occurrences` as a block. Give `sets` to share interned attribute sets between blocks."""
    sets = AttributeSets() if sets is None else sets
    keys = occurrences[0].integers if occurrences else ()
    return EventBlock(
        event=event,
        time_ns=np.array([o.time_ns for o in occurrences], np.int64),
        observed_ns=observed_ns,
        source=_interned(sets, [o.source for o in occurrences]),
        destination=_interned(sets, [o.destination for o in occurrences]),
        own=_interned(sets, [o.own for o in occurrences]),
        integers={key: np.array([o.integers[key] for o in occurrences], np.int64) for key in keys},
        body=body,
        sets=sets,
    )


def _interned(sets: AttributeSets, many: Sequence[Attributes]) -> npt.NDArray[np.int32]:
    ids = [sets.intern(tuple(sorted(attributes.items()))) for attributes in many]
    return np.array(ids, np.int32)
