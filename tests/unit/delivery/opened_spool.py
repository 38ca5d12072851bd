"""A spool on a real file system that remembers what it said, for the tests of spools."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from retina_otel.delivery.packed import Packed
from retina_otel.delivery.spool.queue import Spool, SpoolLimits, SpoolPlace
from retina_otel.testing.exporters import ManualClock

LIMITS = SpoolLimits(max_bytes=64 << 20, max_age_s=0)


class Opened(Spool):
    """A spool that remembers what it said."""

    def __init__(
        self, directory: Path, limits: SpoolLimits = LIMITS, clock: ManualClock | None = None
    ) -> None:
        self.said: list[str] = []
        place = SpoolPlace(directory, "otlp-logs", limits)
        super().__init__(place, clock or ManualClock(), self.said.append)

    def put(self, *items: tuple[bytes, int]) -> None:
        """Appends requests, each with its number of items."""
        self.append([Packed(body, "", n_items, len(body)) for body, n_items in items])

    def drain(self) -> list[bytes]:
        """All bodies that are left, in order."""
        bodies = []
        while (request := self.oldest()) is not None:
            bodies.append(request.request.data)
            self.advance(request)
        return bodies


@contextlib.contextmanager
def opened(
    directory: Path, limits: SpoolLimits = LIMITS, clock: ManualClock | None = None
) -> Iterator[Opened]:
    spool = Opened(directory, limits, clock)
    try:
        yield spool
    finally:
        spool.close()


def bodies(n: int, first: int = 0) -> list[bytes]:
    return [b"%06d" % number * (1 + number % 5) for number in range(first, first + n)]


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.segment"))


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A directory that costs no wait for a disk, for tests that write thousands of times."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def filled(directory: Path, n: int = 6) -> tuple[bytes, list[bytes], list[int]]:
    """Contents of the one segment of a spool with n requests, the requests, where each ends."""
    with opened(directory) as spool:
        ends = []
        for body in bodies(n):
            spool.put((body, 1))
            ends.append(segments(directory)[0].stat().st_size)
    return segments(directory)[0].read_bytes(), bodies(n), ends
