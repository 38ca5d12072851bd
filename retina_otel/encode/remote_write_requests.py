"""Cuts runs of series into requests of remote write, whatever its version.

A point is never cut in two: all series of a histogram's point go in one request. The resource's
`target_info` goes first and is no point.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from retina_otel.encode.remote_write_labels import Labels
from retina_otel.encode.remote_write_series import Run, SeriesMaker, SeriesOptions
from retina_otel.encode.requests import Request
from retina_otel.pipeline.points import PointBlock


class Writer(Protocol):
    """Writes one request after the other."""

    empty: bool

    def begin(self, run: Run) -> None:
        """What `room` and `add` are about from now on."""

    def room(self, low: int, max_bytes: int) -> int:
        """Up to where points of the run, from `low`, fit into what is left of the request."""

    def add(self, low: int, high: int) -> None: ...

    def add_target_info(self, labels: Labels, time_ms: int) -> None: ...

    def finish(self) -> bytes:
        """The request; the next one begins empty."""

    def outgrown(self) -> bool:
        """After an export: whether most of what is kept is of no use any more. It is dropped, and
        what `SeriesMaker` keeps has to be dropped too."""


class RemoteWriteEncoder:
    """Points to requests. Keeps bytes of attribute sets; one thread at a time."""

    def __init__(self, options: SeriesOptions, writer: Writer) -> None:
        self.series = SeriesMaker(options)
        self._writer = writer

    def requests(self, blocks: Iterable[PointBlock], max_bytes: int) -> Iterator[Request]:
        """Complete requests of at most `max_bytes`, unless one point alone takes more. Blocks must
        be cumulative; ValueError if one is not."""
        series, writer = self.series, self._writer
        n_points = 0
        families = series.families(blocks)
        target_info, time_ms = series.target_info(families)
        if target_info:
            writer.add_target_info(target_info, time_ms)
        for family, same in families:
            for run in series.runs(family, same):
                writer.begin(run)
                low = 0
                while low < len(run):
                    high = writer.room(low, max_bytes)
                    if high == low and not writer.empty:
                        yield Request(writer.finish(), n_points)
                        n_points = 0
                        continue
                    high = max(high, low + 1)
                    writer.add(low, high)
                    n_points += high - low
                    low = high
        if not writer.empty:
            yield Request(writer.finish(), n_points)
        if writer.outgrown():
            series.forget()
