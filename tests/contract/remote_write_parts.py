"""What tests of remote write share: an encoder with a strict decoder behind it, and its labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from retina_otel import __version__
from retina_otel.encode.prometheus.names import TranslationStrategy
from retina_otel.encode.remote_write import version_1 as remote_write
from retina_otel.encode.remote_write import version_2 as remote_write_2
from retina_otel.encode.remote_write.requests import RemoteWriteEncoder
from retina_otel.encode.remote_write.series import SeriesOptions
from retina_otel.pipeline.points import PointBlock
from retina_otel.testing.remote_write import V1, V2, WriteRequest, check_order, decode_body

SCOPE = "retina_otel.receivers.flows"
SCOPE_LABELS = {"otel_scope_name": SCOPE, "otel_scope_version": __version__}
RESOURCE = {
    "service.namespace": "kube-system",
    "service.name": "retina-otel",
    "service.instance.id": "0e3c1c1e",
    "service.version": "1.2",
    "k8s.node.name": "node-0",
    "k8s.cluster.name": "prod",
}
RESOURCE_LABELS = {
    "job": "kube-system/retina-otel",
    "instance": "0e3c1c1e",
    "k8s_node_name": "node-0",
    "k8s_cluster_name": "prod",
}
TIMES: dict[str, Any] = {
    "start_ns": 1_790_000_000_123_456_789,
    "time_ns": 1_790_000_015_000_000_000,
}
START_MS, TIME_MS = 1_790_000_000_123, 1_790_000_015_000
ENCODERS: dict[str, Callable[[SeriesOptions], RemoteWriteEncoder]] = {
    V1: remote_write.encoder,
    V2: remote_write_2.encoder,
}
VERSIONS = pytest.mark.parametrize("version", ENCODERS)
MOST = 1 << 20

Labels = frozenset[tuple[str, str]]


class Encoding:
    """An encoder of a version, and what a receiver makes of its requests."""

    def __init__(self, version: str, resource: Mapping[str, Any] = RESOURCE, **options: Any):
        self.version = version
        self.encoder = ENCODERS[version](SeriesOptions(resource, **options))
        strategy = options.get("strategy", TranslationStrategy.UNDERSCORE_ESCAPING_WITH_SUFFIXES)
        self._utf8 = not strategy.escapes

    def requests(self, blocks: Iterable[PointBlock], max_bytes: int = MOST) -> list[WriteRequest]:
        encoded = list(self.encoder.requests(blocks, max_bytes))
        found = [decode_body(each.body, self.version, utf8_names=self._utf8) for each in encoded]
        check_order(found)
        return found

    def values(self, blocks: Iterable[PointBlock]) -> dict[Labels, float]:
        """The last value of each series, without `target_info`."""
        return {
            frozenset(series.labels): series.samples[-1].value
            for request in self.requests(blocks)
            for series in request.series
            if series.name != "target_info"
        }


def key(name: str, **labels: str) -> Labels:
    return frozenset({**RESOURCE_LABELS, **SCOPE_LABELS, **labels, "__name__": name}.items())
