"""What travels from receivers through processors: columnar deltas over a window.

A batch is a table of n rows. All its columns have length n; a Python object per row is a defect.
Batches are values: nobody changes an array of a batch after handing it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.model.signals import Event, Metric

AttributeValue = str | int | bool | float

Rows = npt.NDArray[np.bool_] | npt.NDArray[np.int32] | npt.NDArray[np.int64]
"""Which rows of a table: a mask, or indices."""

UNKNOWN_ROW = 0
"""The row of the EndpointTable for an endpoint of which nothing is known."""


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open span [start_ns, end_ns) of wall time, in ns since 1970, that a batch covers."""

    start_ns: int
    end_ns: int


class How(IntEnum):
    """How it became known who an end is."""

    UNKNOWN = 0
    INTERFACE = 1
    NAMESPACE = 2
    SOCKET = 3
    ADDRESS = 4
    BACKEND = 5
    """By address, of what answers behind a service."""
    AMBIGUOUS = 6
    """It is not: by address and time, more than one may be meant."""
    NOBODY = 7
    """It is not: nobody claims the address."""


@dataclass(frozen=True, slots=True)
class RawEnds:
    """One end of each row as the kernel saw it, before identity is known.

    An address is two host-order 64-bit halves of its IPv6 form; IPv4 is mapped (::ffff:a.b.c.d),
    so hi = 0 and lo = 0xffff << 32 | address.
    """

    hi: npt.NDArray[np.uint64]
    lo: npt.NDArray[np.uint64]
    port: npt.NDArray[np.uint16]
    """Host order; 0 where the protocol has none."""
    ifindex: npt.NDArray[np.uint32]
    """The node's interface behind which this end lives, 0 if it is not local. This, not the
    address, tells who a local end is."""
    netns: npt.NDArray[np.uint32] | None = None
    """Inode of the network namespace in which the end lives, 0 or None if not known."""
    seen_netns: npt.NDArray[np.uint32] | None = None
    """Inode of the network namespace in which the packet was seen, 0 if not known; None: all were
    seen in the node's own. An address means there what it does, which elsewhere may be another."""
    behind_hi: npt.NDArray[np.uint64] | None = None
    behind_lo: npt.NDArray[np.uint64] | None = None
    """The address of what answered in place of this end when the row was read, as the node's NAT
    had it; 0 where it is not translated, or that is not known; None: nobody has asked."""

    def at(self, rows: Rows) -> RawEnds:
        return RawEnds(
            hi=self.hi[rows],
            lo=self.lo[rows],
            port=self.port[rows],
            ifindex=self.ifindex[rows],
            netns=None if self.netns is None else self.netns[rows],
            seen_netns=None if self.seen_netns is None else self.seen_netns[rows],
            behind_hi=None if self.behind_hi is None else self.behind_hi[rows],
            behind_lo=None if self.behind_lo is None else self.behind_lo[rows],
        )


@dataclass(frozen=True, slots=True)
class Column:
    """A dictionary-encoded attribute: row i has `values[codes[i]]`; a code of -1 means absent."""

    codes: npt.NDArray[np.int32]
    values: Sequence[AttributeValue]

    def at(self, rows: Rows) -> Column:
        return Column(self.codes[rows], self.values)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Values of a histogram metric: n rows of len(boundaries) + 1 bucket counts, and their sums."""

    counts: npt.NDArray[np.int64]  # (n, buckets)
    sums: npt.NDArray[np.float64]  # (n,)

    def at(self, rows: Rows) -> Histogram:
        return Histogram(self.counts[rows], self.sums[rows])


Values = npt.NDArray[np.int64] | npt.NDArray[np.float64] | Histogram


@dataclass(frozen=True, slots=True)
class MetricBatch:
    """n rows that share ends and own attributes, with a column of values for each metric.

    COUNTER and HISTOGRAM columns are deltas over `window`; GAUGE and UPDOWN are values at its end.
    All metrics of one batch have the same `ends` and the same own attributes.
    """

    window: Window
    values: Mapping[Metric, Values]
    own: Mapping[str, Column] = field(default_factory=dict)
    source: RawEnds | None = None
    """The source, or the only end of a metric with Ends.ONE."""
    destination: RawEnds | None = None
    source_rows: npt.NDArray[np.int32] | None = None
    """Rows of the EndpointTable, set by an identity processor; None counts as UNKNOWN_ROW."""
    destination_rows: npt.NDArray[np.int32] | None = None
    first_ns: npt.NDArray[np.int64] | None = None
    """Wall time of the first and of the last of what a row stands for; None: the window's."""
    last_ns: npt.NDArray[np.int64] | None = None
    source_how: npt.NDArray[np.uint8] | None = None
    """How each end became known, a `How`; set with the rows."""
    destination_how: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        column = next(iter(self.values.values()))
        return len(column.sums) if isinstance(column, Histogram) else len(column)

    def at(self, rows: Rows) -> MetricBatch:
        """The batch of some of the rows, by mask or by index."""
        return replace(
            self,
            values={metric: _at(column, rows) for metric, column in self.values.items()},
            own={name: column.at(rows) for name, column in self.own.items()},
            first_ns=None if self.first_ns is None else self.first_ns[rows],
            last_ns=None if self.last_ns is None else self.last_ns[rows],
            **_ends_at(self, rows),
        )


@dataclass(frozen=True, slots=True)
class EventBatch:
    """n events of one kind. `counts[i]` is how many raw occurrences event i stands for."""

    event: Event
    window: Window
    time_ns: npt.NDArray[np.int64]
    own: Mapping[str, Column | npt.NDArray[np.int64]] = field(default_factory=dict)
    """Own attributes: dictionary-encoded, or plain int64 columns (counts, bytes)."""
    source: RawEnds | None = None
    destination: RawEnds | None = None
    source_rows: npt.NDArray[np.int32] | None = None
    destination_rows: npt.NDArray[np.int32] | None = None
    source_how: npt.NDArray[np.uint8] | None = None
    destination_how: npt.NDArray[np.uint8] | None = None
    body: str = ""
    """Display text: a str.format template over the event's attribute names with dots as
    underscores."""

    def __len__(self) -> int:
        return len(self.time_ns)

    def at(self, rows: Rows) -> EventBatch:
        """The batch of some of the rows, by mask or by index."""
        return replace(
            self,
            time_ns=self.time_ns[rows],
            own={name: _at(column, rows) for name, column in self.own.items()},
            **_ends_at(self, rows),
        )


Batch = MetricBatch | EventBatch


def _at(column: Any, rows: Rows) -> Any:
    return column[rows] if isinstance(column, np.ndarray) else column.at(rows)


def _ends_at(batch: MetricBatch | EventBatch, rows: Rows) -> dict[str, Any]:
    ends = {
        name: getattr(batch, name)
        for name in (
            "source",
            "destination",
            "source_rows",
            "destination_rows",
            "source_how",
            "destination_how",
        )
    }
    return {name: None if end is None else _at(end, rows) for name, end in ends.items()}
