"""What exporters receive: points ready to encode, and events ready to encode. Immutable.

An exporter owns a reader, made by the accumulator or event buffer at the end of its pipeline. It
calls `take()` when its interval comes, sends, and calls `acknowledge()` when the backend has the
data. What it never acknowledges it is given again in newer form (metrics: newest values; events:
the same events, until they are shed and counted). A reader is used by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import Histogram, Rows, Values
from retina_otel.model.signals import Event, Metric
from retina_otel.pipeline.once import Once


class Temporality(Enum):
    """What a point adds up since: points are one of the first two, readers any.

    Amounts and gauges are what they are now for all; UPDOWN is never a delta.
    """

    CUMULATIVE = "cumulative"
    """Since the series began."""
    DELTA = "delta"
    """Counters and histograms since the last point that was delivered."""
    LOWMEMORY = "lowmemory"
    """Only histograms, as OpenTelemetry has it: counters that are read from elsewhere, as from a
    kernel, stay cumulative."""


class ResourceModel(Enum):
    """Where the one end of a one-ended metric stands, if it is a pod."""

    FLAT = "flat"
    """On the point, as the ends of all other metrics; the resource is the agent's."""
    ENTITY = "entity"
    """In a resource that is the pod's own."""


@dataclass(frozen=True, slots=True)
class PointBlock:
    """n points of one metric. Several blocks of one metric may follow each other in an export."""

    metric: Metric
    temporality: Temporality
    source: npt.NDArray[np.int32]
    """Attribute set of the source (keys already carry their prefix), an id in `sets`."""
    destination: npt.NDArray[np.int32]
    own: npt.NDArray[np.int32]
    start_ns: npt.NDArray[np.int64]
    time_ns: npt.NDArray[np.int64]
    values: Values
    no_value: npt.NDArray[np.bool_]
    """True: the series has ended; the point says so (NO_RECORDED_VALUE) and has no value."""
    sets: AttributeSets

    def at(self, rows: Rows) -> PointBlock:
        """The block of some of the points, by mask or by index."""
        values = self.values
        return replace(
            self,
            source=self.source[rows],
            destination=self.destination[rows],
            own=self.own[rows],
            start_ns=self.start_ns[rows],
            time_ns=self.time_ns[rows],
            values=values.at(rows) if isinstance(values, Histogram) else values[rows],
            no_value=self.no_value[rows],
        )


@dataclass(frozen=True, slots=True)
class MetricsExport:
    """One `take()`: all points to send, and a ticket for `acknowledge()`."""

    sequence: int
    """Number of the snapshot; the same number means the same contents to every reader."""
    blocks: Sequence[PointBlock]
    once: Once = field(default_factory=Once, compare=False, repr=False)
    """What exporters make of it alike: others may have been given the same export."""

    @property
    def n_points(self) -> int:
        return sum(len(block.source) for block in self.blocks)


class MetricsReader(Protocol):
    """An exporter's view of one accumulator."""

    def take(self) -> MetricsExport | None:
        """The newest snapshot as points; None before the first one."""

    def let_go(self) -> None:
        """The blocks of what was taken are read no more, whether it is acknowledged or not: their
        attribute sets may come to mean others."""

    def acknowledge(self, export: MetricsExport) -> None:
        """The backend has it: delta baselines move, ended series may be freed."""


@dataclass(frozen=True, slots=True)
class EventBlock:
    """n events with resolved attribute sets."""

    event: Event
    time_ns: npt.NDArray[np.int64]
    observed_ns: int
    source: npt.NDArray[np.int32]
    destination: npt.NDArray[np.int32]
    own: npt.NDArray[np.int32]
    """Set of the dictionary-encoded own attributes."""
    integers: Mapping[str, npt.NDArray[np.int64]]
    """Own attributes that differ from event to event."""
    body: str
    sets: AttributeSets


@dataclass(frozen=True, slots=True)
class EventsExport:
    sequence: int
    blocks: Sequence[EventBlock]
    once: Once = field(default_factory=Once, compare=False, repr=False)
    """As that of a MetricsExport."""

    @property
    def n_events(self) -> int:
        return sum(len(block.time_ns) for block in self.blocks)


class EventsReader(Protocol):
    """An exporter's cursor in one event buffer."""

    def take(self, max_bytes: int) -> EventsExport | None:
        """The oldest events not acknowledged, about `max_bytes` at most; None when there are
        none."""

    def let_go(self) -> None:
        """As that of a MetricsReader."""

    def acknowledge(self, export: EventsExport) -> None:
        """The backend has them (or refused them for good): the cursor moves past them."""

    @property
    def shed(self) -> int:
        """Events that this reader never got, because the buffer's bound was passed."""
