"""Blocks of what belongs together, beside each other: of one metric, of one scope."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from retina_otel.model.signals import Metric
from retina_otel.pipeline.points import EventBlock, PointBlock, Temporality


def by_metric(
    blocks: Iterable[PointBlock],
) -> Iterator[tuple[Metric, Temporality, list[PointBlock]]]:
    """Blocks of one metric together, metrics of one scope together; empty blocks left out."""
    scopes: dict[str, dict[tuple[Metric, Temporality], list[PointBlock]]] = {}
    for block in blocks:
        if len(block.source):
            metrics = scopes.setdefault(block.metric.scope, {})
            metrics.setdefault((block.metric, block.temporality), []).append(block)
    for metrics in scopes.values():
        for (metric, temporality), same in metrics.items():
            yield metric, temporality, same


def by_scope(blocks: Iterable[EventBlock]) -> Iterator[EventBlock]:
    """Blocks of one scope together, in their order."""
    scopes: dict[str, list[EventBlock]] = {}
    for block in blocks:
        scopes.setdefault(block.event.scope, []).append(block)
    for same in scopes.values():
        yield from same
