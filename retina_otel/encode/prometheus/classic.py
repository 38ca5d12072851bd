"""Points of Retina's metrics as they stand on a page: gauges with Retina's labels and without unit.
Points of other metrics pass as they are.

An end that is not known has `unknown` in each of its labels, as in Retina. The labels that a metric
has are those its `attributes` name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from retina_otel.encode.set_cache import MAX_TABLES
from retina_otel.model.attribute_sets import AttributeSet, AttributeSets
from retina_otel.model.classic import LABELS, SCOPE, UNKNOWN
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock

_OWN, _SOURCE, _DESTINATION, _PLACES = range(4)

_KINDS = {
    "deployment": "Deployment",
    "replicaset": "ReplicaSet",
    "statefulset": "StatefulSet",
    "daemonset": "DaemonSet",
    "job": "Job",
    "cronjob": "CronJob",
    "replicationcontroller": "ReplicationController",
    "node": "Node",
    "pod": "Pod",
}
"""Kinds of workloads as Kubernetes writes them, which ours are in lower case of."""

_Shape = tuple[tuple[tuple[str, str], ...], ...]
"""By place, labels and the attributes that they are."""


class ClassicBlocks:
    """Maps the blocks of one exporter. One thread at a time."""

    def __init__(self) -> None:
        self._labelled: OrderedDict[tuple[int, _Shape], LabelledSets] = OrderedDict()
        self._shown: dict[Metric, tuple[Metric, _Shape]] = {}

    def mapped(self, blocks: Iterable[PointBlock]) -> list[PointBlock]:
        """All blocks, those of Retina's metrics in Retina's words."""
        return [self._map(one) if one.metric.scope == SCOPE else one for one in blocks]

    def _map(self, block: PointBlock) -> PointBlock:
        if block.metric not in self._shown:
            shown = replace(block.metric, kind=Kind.GAUGE, unit="", attributes=())
            self._shown[block.metric] = shown, _shape(block.metric)
        metric, shape = self._shown[block.metric]
        return replace(
            block,
            metric=metric,
            source=block.source * _PLACES + _SOURCE,
            destination=block.destination * _PLACES + _DESTINATION,
            own=block.own * _PLACES + _OWN,
            sets=self._sets(block.sets, shape),
        )

    def _sets(self, of: AttributeSets, shape: _Shape) -> LabelledSets:
        """The same each time, so that an encoder's own tables last."""
        key = (id(of), shape)
        if key not in self._labelled:
            self._labelled[key] = LabelledSets(of, shape)
            if len(self._labelled) > MAX_TABLES:
                self._labelled.popitem(last=False)
        self._labelled.move_to_end(key)
        return self._labelled[key]


class LabelledSets(AttributeSets):
    """Sets of an accumulator in Retina's words. Each has an id for each place that it may stand in:
    what is not known is told by other labels for a source than for a destination. For reading."""

    __slots__ = ("_of", "_shape")

    def __init__(self, of: AttributeSets, shape: _Shape) -> None:
        super().__init__()
        self._of = of
        self._shape = shape

    def __len__(self) -> int:
        return len(self._of) * _PLACES

    def get(self, number: int) -> AttributeSet:
        number, place = divmod(number, _PLACES)
        attributes = self._of.get(number)
        if place == _OWN:
            return attributes
        known = dict(attributes)
        return tuple(
            (label, _KINDS.get(str(value), value) if label.endswith("kind") else value)
            for label, attribute in self._shape[place - _SOURCE]
            for value in (known.get(attribute, UNKNOWN),)
        )

    def version(self, number: int) -> int:
        return self._of.version(number // _PLACES)

    def versions(
        self, numbers: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int32]:
        return self._of.versions(numbers // _PLACES)

    def digests(
        self, numbers: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint64]:
        places = (numbers % _PLACES).astype(np.uint64)
        return self._of.digests(numbers // _PLACES) * np.uint64(_PLACES) + places


def _shape(metric: Metric) -> _Shape:
    """Labels of source and destination; without prefix they are the source's, the one end's."""
    names = [one.name for one in metric.attributes]
    sources = [
        (name, "source." + attribute)
        for name in names
        for label, attribute in LABELS.items()
        if name in (label, "source_" + label)
    ]
    destinations = [
        (name, "destination." + attribute)
        for name in names
        for label, attribute in LABELS.items()
        if name == "destination_" + label
    ]
    return tuple(sources), tuple(destinations)
