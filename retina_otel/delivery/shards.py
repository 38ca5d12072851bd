"""One reader's exports in parts, so that several lanes can send them at a time.

Which part a series is in depends on its attributes alone, so its points stay in order. An export is
acknowledged when each lane has acknowledged its part. The next one is taken when no other lane is
busy with its part of this one; who asks sooner is given the same part again.
"""

from __future__ import annotations

import threading

import numpy as np

from retina_otel.pipeline.points import MetricsExport, MetricsReader, PointBlock

_SPREAD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)


class Shards:
    """A reader for each of `n` lanes. Lanes may be on different threads."""

    def __init__(self, reader: MetricsReader, n: int) -> None:
        self.readers: list[MetricsReader] = [_Shard(self, number) for number in range(n)]
        self._reader = reader
        self._n = n
        self._lock = threading.Lock()
        self._export: MetricsExport | None = None
        self._parts: list[MetricsExport] = []
        self._busy: set[int] = set()
        self._acknowledged: set[int] = set()

    def take(self, shard: int) -> MetricsExport | None:
        with self._lock:
            self._busy.discard(shard)
            if not self._busy:
                self._export = self._reader.take()
                self._acknowledged.clear()
                self._parts = self._divided(self._export) if self._export else []
            if self._export is None:
                return None
            self._busy.add(shard)
            return self._parts[shard]

    def acknowledge(self, shard: int, export: MetricsExport) -> None:
        with self._lock:
            if self._export is None or export.sequence != self._export.sequence:
                return
            self._busy.discard(shard)
            self._acknowledged.add(shard)
            if len(self._acknowledged) == self._n:
                self._reader.acknowledge(self._export)

    def _divided(self, export: MetricsExport) -> list[MetricsExport]:
        parts: list[list[PointBlock]] = [[] for _ in range(self._n)]
        for block in export.blocks:
            shards = _hashes(block) % np.uint64(self._n)
            for number, part in enumerate(parts):
                rows = np.flatnonzero(shards == number)
                if len(rows):
                    part.append(block.at(rows))
        return [MetricsExport(export.sequence, part) for part in parts]


class _Shard:
    """A MetricsReader of one part."""

    def __init__(self, shards: Shards, number: int) -> None:
        self._shards = shards
        self._number = number

    def take(self) -> MetricsExport | None:
        return self._shards.take(self._number)

    def let_go(self) -> None:
        """Nothing: another lane, or this one again, may have to read the export until it is
        acknowledged or the next one is taken."""

    def acknowledge(self, export: MetricsExport) -> None:
        self._shards.acknowledge(self._number, export)


def _hashes(block: PointBlock) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Of each point a hash of its attributes, the same for all metrics and exports."""
    out = np.zeros(len(block.source), np.uint64)
    for ids, factor in zip((block.source, block.destination, block.own), _SPREAD, strict=True):
        out += block.sets.digests(ids) * factor
    return out ^ out >> np.uint64(32)
