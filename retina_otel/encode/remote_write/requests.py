"""Cuts runs of series into requests of remote write, whatever its version.

A point is never cut in two: all series of a histogram's point go in one request. The resource's
`target_info` goes first, is no point, and never goes back in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from retina_otel.encode.remote_write.labels import Labels
from retina_otel.encode.remote_write.series import Run, SeriesMaker, SeriesOptions
from retina_otel.encode.requests import Request
from retina_otel.pipeline.points import PointBlock


class Writer(Protocol):
    """Writes the requests of one export, one after the other."""

    @property
    def empty(self) -> bool:
        """Whether nothing is in the present request."""

    def begin(self, run: Run) -> None:
        """What `room` and `add` are about from now on."""

    def room(self, low: int, max_bytes: int) -> int:
        """Up to where points of the run, from `low`, fit into what is left of the request."""

    def add(self, low: int, high: int) -> None: ...

    def add_target_info(self, labels: Labels, time_ms: int) -> None: ...

    def finish(self) -> bytes:
        """The request; the next one begins empty."""


class Format(Protocol):
    """One version of remote write, with what it keeps from export to export."""

    def writer(self) -> Writer: ...

    def outgrown(self) -> bool:
        """After an export: whether most of what is kept is of no use any more."""


class RemoteWriteEncoder:
    """Points to requests. Keeps bytes of attribute sets. One thread at a time, but an export may
    begin before the one before has ended."""

    def __init__(self, options: SeriesOptions, new_format: Callable[[], Format]) -> None:
        self._options = options
        self._new_format = new_format
        self._kept = SeriesMaker(options), new_format()
        self._target_info_ms = 0
        self.conflicts: dict[str, str] = {}
        """Metrics that the last export left out, and why: another has the name."""
        self.duplicates = 0
        """Points that the last export left out: a newer one has equal labels."""

    def requests(self, blocks: Iterable[PointBlock], max_bytes: int) -> Iterator[Request]:
        """Complete requests of at most `max_bytes`, unless one point alone takes more. Blocks must
        be cumulative; ValueError if one is not."""
        series, form = self._kept
        writer = form.writer()
        families = series.families(blocks)
        self.conflicts = series.conflicts
        target_info, time_ms = series.target_info(families)
        # Told again at the same time, of another pipeline or to another exporter, it does no harm.
        if target_info and time_ms >= self._target_info_ms:
            self._target_info_ms = time_ms
            writer.add_target_info(target_info, time_ms)
        n_points = 0
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
        self.duplicates = series.duplicates
        if form.outgrown() and self._kept[1] is form:
            self._kept = SeriesMaker(self._options), self._new_format()
        if not writer.empty:
            yield Request(writer.finish(), n_points)
