"""Under which resource points stand: all under the agent's, or those of a pod under the pod's.

Of a one-ended metric whose end is a pod, `resource_model: entity` takes the end's attributes off
the points and makes them a resource. That is framing alone: the same points, values and times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from retina_otel.encode.requests import Envelope, Rows, Stream
from retina_otel.encode.scopes import sorted_set
from retina_otel.encode.set_cache import SetCache, SetTable
from retina_otel.model.attribute_sets import EMPTY_SET, AttributeSet
from retina_otel.model.attributes import K8S_POD_UID
from retina_otel.model.batches import AttributeValue
from retina_otel.model.signals import Ends, Metric
from retina_otel.pipeline.points import PointBlock, Temporality

SHARED = frozenset(
    {
        "k8s.cluster.name",
        "k8s.cluster.uid",
        "k8s.node.name",
        "k8s.node.uid",
        "cloud.provider",
        "cloud.platform",
        "cloud.region",
        "cloud.availability_zone",
        "cloud.account.id",
    }
)
"""Of the agent's resource, what is true of every pod of its node."""


class PodResources:
    """The resources of pods, made once for each attribute set."""

    def __init__(
        self, agent: Mapping[str, AttributeValue], write: Callable[[AttributeSet], bytes]
    ) -> None:
        """`write` makes a resource of attributes, as the format has it."""
        shared = {key: value for key, value in agent.items() if key in SHARED}

        def build(pairs: AttributeSet) -> bytes:
            attributes = dict(pairs)
            if K8S_POD_UID.name not in attributes:
                return b""
            return write(sorted_set({**shared, **attributes}))

        self._tables = SetCache(lambda sets: SetTable(sets, build))

    def part(self, block: PointBlock) -> tuple[PointBlock, PointBlock, list[tuple[bytes, int]]]:
        """The points that stay the agent's; those of pods, by pod and without their end; and of
        the latter each resource with the number of its points."""
        table = self._tables.table(block.sets)
        table.refresh(block.source)
        of_pods = table.lengths[block.source] > 0
        rows = np.flatnonzero(of_pods)
        rows = rows[np.argsort(block.source[rows], kind="stable")]
        pods = block.at(rows)
        ids, counts = np.unique(pods.source, return_counts=True)
        resources = zip(table.blobs[ids].tolist(), counts.tolist(), strict=True)
        pods = replace(pods, source=np.full(len(rows), EMPTY_SET, np.int32))
        return block.at(~of_pods), pods, list(resources)


class RowRange:
    """Some of the rows that were encoded together, as `requests.Rows`."""

    def __init__(self, sizes: npt.NDArray[np.int64], pieces: list[bytes], low: int, high: int):
        self.sizes = sizes[low:high]
        self._pieces = pieces
        self._width = len(pieces) // len(sizes)
        self._low = low

    def pieces(self, low: int, high: int) -> list[bytes]:
        return self._pieces[(self._low + low) * self._width : (self._low + high) * self._width]


def streams(
    metrics: Iterable[tuple[Metric, Temporality, list[PointBlock]]],
    envelope_of: Callable[[Metric, Temporality], Envelope],
    rows_of: Callable[[PointBlock], Iterable[Rows]],
    pods: PodResources | None,
) -> Iterator[Stream]:
    """All points, the agent's first and then pod by pod if there are `pods`."""
    later: dict[bytes, list[Stream]] = {}
    for metric, temporality, blocks in metrics:
        envelope = envelope_of(metric, temporality)
        for block in blocks:
            stays = block
            if pods is not None and metric.ends is Ends.ONE:
                stays, theirs, resources = pods.part(block)
                for resource, rows in _by_resource(theirs, resources, rows_of):
                    stream = Stream(metric.scope, envelope, rows, resource)
                    later.setdefault(resource, []).append(stream)
            if len(stays.source):
                for rows in rows_of(stays):
                    yield Stream(metric.scope, envelope, rows)
    for of_pod in later.values():
        yield from of_pod


def _by_resource(
    block: PointBlock,
    resources: list[tuple[bytes, int]],
    rows_of: Callable[[PointBlock], Iterable[Rows]],
) -> Iterator[tuple[bytes, Rows]]:
    if not resources:
        return
    encoded = list(rows_of(block))
    sizes = np.concatenate([rows.sizes for rows in encoded])
    pieces = [piece for rows in encoded for piece in rows.pieces(0, len(rows.sizes))]
    low = 0
    for resource, count in resources:
        yield resource, RowRange(sizes, pieces, low, low + count)
        low += count
