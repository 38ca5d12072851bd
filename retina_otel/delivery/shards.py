"""One of several readers of a pipeline, as a reader of its part of the series.

Which part a series is in depends on its attributes alone, so its points go one way, in order. Each
part has its own reader below, so it is sent and acknowledged without the others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retina_otel.pipeline.points import MetricsExport, MetricsReader, PointBlock

_SPREAD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


class ShardReader:
    """A MetricsReader of part `number` of `n`."""

    def __init__(self, reader: MetricsReader, number: int, n: int) -> None:
        self._reader = reader
        self._number = number
        self._n = n

    def take(self) -> MetricsExport | None:
        export = self._reader.take()
        if export is None:
            return None
        # Readers that have acknowledged the same take the same export.
        parts = export.once.get((ShardReader, self._n), lambda: _divided(export, self._n))
        return parts[self._number]

    def let_go(self) -> None:
        self._reader.let_go()

    def acknowledge(self, export: MetricsExport) -> None:
        self._reader.acknowledge(export)


def _divided(export: MetricsExport, n: int) -> list[MetricsExport]:
    parts: list[list[PointBlock]] = [[] for _ in range(n)]
    for block in export.blocks:
        shards = _hashes(block) % np.uint64(n)
        for number, part in enumerate(parts):
            rows = np.flatnonzero(shards == number)
            if len(rows):
                part.append(block.at(rows))
    return [MetricsExport(export.sequence, part) for part in parts]


def _hashes(block: PointBlock) -> npt.NDArray[np.uint64]:
    """Of each point a hash of its attributes, the same for all metrics and exports."""
    out = np.zeros(len(block.source), np.uint64)
    for ids, factor in zip((block.source, block.destination, block.own), _SPREAD, strict=True):
        out += block.sets.digests(ids) * np.uint64(factor)
    return out ^ out >> np.uint64(32)
