"""What encoding to OTLP is, as protobuf or as JSON: blocks to requests, a stream of rows for each
metric and each kind of event. How things are written is the business of the two formats."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from retina_otel.encode.grouping import by_metric, by_scope
from retina_otel.encode.requests import MAX_BYTES, Assembler, Envelope, Request, Rows, Stream, cut
from retina_otel.encode.resources import PodResources, streams
from retina_otel.encode.scopes import sorted_set
from retina_otel.model.attribute_sets import AttributeSet
from retina_otel.model.batches import AttributeValue
from retina_otel.model.signals import SCHEMA_URL, Metric
from retina_otel.pipeline.points import EventBlock, PointBlock, ResourceModel, Temporality

_NO_ENVELOPE = Envelope()


Block = TypeVar("Block", PointBlock, EventBlock)


class _OtlpEncoder(ABC, Generic[Block]):
    """What both signals have in common. Keeps bytes of attribute sets only; one thread at a
    time."""

    def __init__(
        self,
        resource: Mapping[str, AttributeValue],
        *,
        schema_url: str = SCHEMA_URL,
        entity_refs: bool = False,
    ) -> None:
        """`entity_refs`: resources say which entities they stand for."""
        own = self._resource(sorted_set(resource), entity_refs=entity_refs)
        self._assembler = self._assembler_of(own, schema_url)

    def encode(self, blocks: Iterable[Block], max_bytes: int = MAX_BYTES) -> Iterator[bytes]:
        """Complete requests, each of at most `max_bytes`. Made one at a time, as they are taken."""
        return (request.body for request in self.requests(blocks, max_bytes))

    def requests(self, blocks: Iterable[Block], max_bytes: int = MAX_BYTES) -> Iterator[Request]:
        """As `encode`, each with the number of its points or records."""
        return cut(self._streams(blocks), self._assembler, max_bytes)

    @staticmethod
    @abstractmethod
    def _resource(attributes: AttributeSet, *, entity_refs: bool) -> bytes: ...

    @staticmethod
    @abstractmethod
    def _assembler_of(resource: bytes, schema_url: str) -> Assembler: ...

    @abstractmethod
    def _streams(self, blocks: Iterable[Block]) -> Iterator[Stream]: ...


class OtlpMetricsEncoder(_OtlpEncoder[PointBlock]):
    """Encodes points of metrics."""

    def __init__(
        self,
        resource: Mapping[str, AttributeValue],
        *,
        schema_url: str = SCHEMA_URL,
        resource_model: ResourceModel = ResourceModel.FLAT,
        entity_refs: bool = False,
    ) -> None:
        """As for logs; `resource_model` says where the pod of a one-ended metric stands."""
        super().__init__(resource, schema_url=schema_url, entity_refs=entity_refs)
        self._pods = None
        if resource_model is ResourceModel.ENTITY:
            write = functools.partial(self._resource, entity_refs=entity_refs)
            self._pods = PodResources(resource, write)

    def _streams(self, blocks: Iterable[PointBlock]) -> Iterator[Stream]:
        return streams(by_metric(blocks), self._envelope, self._rows, self._pods)

    @staticmethod
    @abstractmethod
    def _envelope(metric: Metric, temporality: Temporality) -> Envelope: ...

    @abstractmethod
    def _rows(self, block: PointBlock) -> Iterator[Rows]: ...


class OtlpLogsEncoder(_OtlpEncoder[EventBlock]):
    """Encodes events as log records."""

    step: int
    """Rows built at a time: bounds what a large block costs in memory."""

    def _streams(self, blocks: Iterable[EventBlock]) -> Iterator[Stream]:
        for block in by_scope(blocks):
            n = len(block.time_ns)
            for low in range(0, n, self.step):
                rows = self._rows(block, low, min(low + self.step, n))
                yield Stream(block.event.scope, _NO_ENVELOPE, rows)

    @abstractmethod
    def _rows(self, block: EventBlock, low: int, high: int) -> Rows:
        """Events [low, high) of a block."""
