"""Points and events to envelopes of Application Insights: a JSON array a request.

Each envelope has all attributes as properties: those of the agent's resource and of the point. A
key or value that is longer than Azure takes is cut, never left out, and counted. What an attribute
set becomes is built once; a request has at most so many bytes and so many envelopes.
"""

from __future__ import annotations

import functools
import json
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.encode.event_body import bodies
from retina_otel.encode.protobuf import utf8
from retina_otel.encode.requests import Request
from retina_otel.encode.set_cache import SetCache, SetTable
from retina_otel.model.attribute_sets import AttributeSet, AttributeSets
from retina_otel.model.batches import AttributeValue, Histogram
from retina_otel.model.signals import Event, Metric
from retina_otel.pipeline.points import EventBlock, PointBlock

MAX_KEY = 150
MAX_VALUE = 8192
"""Characters."""
_BETWEEN = b",\n"
"""Stands between envelopes and nowhere else: JSON escapes line breaks in strings."""
_STEP = 4096
"""Rows built at a time: bounds what a large block costs in memory."""

Resource = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Template:
    """An envelope is `before_time`, time, `before_properties`, pairs, `before_value`, value,
    `end`. Events have no value: the last two are then one."""

    before_time: bytes
    before_properties: bytes
    before_value: bytes
    end: bytes
    properties: Mapping[str, str]
    """Pairs that theirs adds by itself."""


class Properties:
    """What attributes are as properties: strings of bounded length. Any thread."""

    def __init__(
        self, resource: Resource, told: Callable[[str, int], None] = lambda what, total: None
    ) -> None:
        """`told` is told of "keys" or "values" that were too long, and how many there were so far,
        once for each attribute set or event that has them."""
        self._told = told
        self._lock = threading.Lock()
        self._cut: Counter[str] = Counter()
        self._resource = {self._key(key): value for key, value in resource.items()}
        self._beside = functools.lru_cache(maxsize=64)(self._resource_beside)

    def pairs(self, attributes: Iterable[tuple[str, AttributeValue]]) -> bytes:
        """Each as `,"key":"value"`."""
        return b"".join(
            utf8(f",{_text(self._key(key))}:{_text(self._value(value))}")
            for key, value in attributes
        )

    def text(self, value: str) -> bytes:
        """A value as a JSON string."""
        return utf8(_text(self._value(value)))

    def of_resource(self, taken: frozenset[str]) -> bytes:
        """The resource's pairs, beside a point that has some of its keys: those of the resource
        then begin with `resource.`."""
        return self._beside(taken)

    def shared(self, attributes: AttributeSet) -> frozenset[str]:
        """Which keys are the resource's too."""
        return frozenset(key for key, _ in attributes if key in self._resource)

    def _resource_beside(self, taken: frozenset[str]) -> bytes:
        return self.pairs(
            (f"resource.{key}" if key in taken else key, value)
            for key, value in self._resource.items()
        )

    def _key(self, key: str) -> str:
        if len(key) <= MAX_KEY:
            return key
        self._count("keys")
        digest = f"~{zlib.crc32(utf8(key)):08x}"
        return key[: MAX_KEY - len(digest)] + digest

    def _value(self, value: AttributeValue) -> str:
        text = str(value)
        if len(text) <= MAX_VALUE:
            return text
        self._count("values")
        return text[:MAX_VALUE]

    def _count(self, what: str) -> None:
        with self._lock:
            self._cut[what] += 1
            self._told(what, self._cut[what])


class MetricEnvelopes:
    """An encoder of points, for one reader; one thread at a time."""

    def __init__(
        self, templates: Callable[[Metric], Template], properties: Properties, max_items: int
    ) -> None:
        self._template = functools.cache(templates)
        self._pairs = _Pairs(properties)
        self._max_items = max_items

    def requests(self, blocks: Iterable[PointBlock], max_bytes: int) -> Iterator[Request]:
        return _cut(self._envelopes(blocks), max_bytes, self._max_items)

    def _envelopes(self, blocks: Iterable[PointBlock]) -> Iterator[bytes]:
        for block in blocks:
            template = self._template(block.metric)
            head = self._pairs.head(template)
            for low in range(0, len(block.source), _STEP):
                part = _sendable(block, slice(low, low + _STEP))
                rows = zip(
                    _times(part.time_ns),
                    self._pairs.of(part.sets, part.source, part.destination, part.own),
                    _values(part),
                    strict=True,
                )
                for time, (resource, pairs), value in rows:
                    properties = (head + resource + pairs)[1:]
                    yield b"".join(
                        (
                            template.before_time,
                            time,
                            template.before_properties,
                            properties,
                            template.before_value,
                            value,
                            template.end,
                        )
                    )


class EventEnvelopes:
    """An encoder of events, for one reader; one thread at a time.

    A custom event has a name and properties only: the display body and the severity are properties
    too.
    """

    def __init__(
        self, templates: Callable[[Event], Template], properties: Properties, max_items: int
    ) -> None:
        self._template = functools.cache(templates)
        self._properties = properties
        self._pairs = _Pairs(properties)
        self._max_items = max_items

    def requests(self, blocks: Iterable[EventBlock], max_bytes: int) -> Iterator[Request]:
        return _cut(self._envelopes(blocks), max_bytes, self._max_items)

    def _envelopes(self, blocks: Iterable[EventBlock]) -> Iterator[bytes]:
        for block in blocks:
            for low in range(0, len(block.time_ns), _STEP):
                yield from self._rows(block, low, min(low + _STEP, len(block.time_ns)))

    def _rows(self, block: EventBlock, low: int, high: int) -> Iterator[bytes]:
        template = self._template(block.event)
        head = self._pairs.head(template)
        if block.event.severity:
            head += b',"severity_number":"%d"' % block.event.severity
        rows = slice(low, high)
        texts = bodies(block, low, high) if block.body else [""] * (high - low)
        keys = [self._properties.text(key) for key in block.integers]
        numbers = [values[rows].tolist() for values in block.integers.values()]
        for place, (time, (resource, pairs), text) in enumerate(
            zip(
                _times(block.time_ns[rows]),
                self._pairs.of(
                    block.sets, block.source[rows], block.destination[rows], block.own[rows]
                ),
                texts,
                strict=True,
            )
        ):
            own = b"".join(
                b',%b:"%d"' % (key, column[place])
                for key, column in zip(keys, numbers, strict=True)
            )
            body = b',"body":' + self._properties.text(text) if text else b""
            properties = (head + body + resource + pairs + own)[1:]
            yield b"".join(
                (
                    template.before_time,
                    time,
                    template.before_properties,
                    properties,
                    template.before_value,
                )
            )


class _Pairs:
    """Properties of points by their attribute sets."""

    def __init__(self, properties: Properties) -> None:
        self._properties = properties
        self._sets = SetCache(lambda sets: _PairsTable(sets, properties))

    def head(self, template: Template) -> bytes:
        return self._properties.pairs(template.properties.items())

    def of(
        self, sets: AttributeSets, *columns: npt.NDArray[np.int32]
    ) -> Iterator[tuple[bytes, bytes]]:
        """For each row the resource's properties and the row's own."""
        table = self._sets.table(sets)
        table.refresh(*columns)
        blobs = (table.blobs[ids].tolist() for ids in columns)
        alone = self._properties.of_resource(frozenset())
        ids = zip(*(column.tolist() for column in columns), strict=True)
        for parts, numbers in zip(zip(*blobs, strict=True), ids, strict=True):
            resource = alone
            if table.shared:
                taken = frozenset().union(*(table.shared.get(n, ()) for n in numbers))
                resource = self._properties.of_resource(taken)
            yield resource, b"".join(parts)


class _PairsTable(SetTable):
    """Also remembers which sets have keys that the resource has too."""

    def __init__(self, sets: AttributeSets, properties: Properties) -> None:
        super().__init__(sets, properties.pairs)
        self.shared: dict[int, frozenset[str]] = {}
        self._properties = properties

    def store(self, number: int, attributes: AttributeSet) -> None:
        super().store(number, attributes)
        self.shared.pop(number, None)
        if shared := self._properties.shared(attributes):
            self.shared[number] = shared


def split(body: bytes) -> tuple[bytes, bytes] | None:
    """A request in two: n // 2 envelopes and the rest; None for a single one."""
    envelopes = taken_apart(body)
    if len(envelopes) < 2:
        return None
    middle = len(envelopes) // 2
    return together(envelopes[:middle]), together(envelopes[middle:])


def taken_apart(body: bytes) -> list[bytes]:
    """The envelopes of a request."""
    return body[1:-1].split(_BETWEEN)


def together(envelopes: Sequence[bytes]) -> bytes:
    return b"[" + _BETWEEN.join(envelopes) + b"]"


def _cut(envelopes: Iterable[bytes], max_bytes: int, max_items: int) -> Iterator[Request]:
    waiting: list[bytes] = []
    size = 0
    for envelope in envelopes:
        needed = len(envelope) + len(_BETWEEN)
        if waiting and (size + needed > max_bytes or len(waiting) == max_items):
            yield Request(together(waiting), len(waiting))
            waiting, size = [], 0
        waiting.append(envelope)
        size += needed
    if waiting:
        yield Request(together(waiting), len(waiting))


def _sendable(block: PointBlock, rows: slice) -> PointBlock:
    """Points that have a value which JSON has too."""
    part = block.at(np.arange(len(block.source))[rows])
    values = part.values.sums if isinstance(part.values, Histogram) else part.values
    sendable = ~part.no_value & np.isfinite(values)
    return part if sendable.all() else part.at(sendable)


def _times(times_ns: npt.NDArray[np.int64]) -> list[bytes]:
    known, places = np.unique(times_ns // 1000, return_inverse=True)
    texts = np.datetime_as_string(known.astype("datetime64[us]"), unit="us").astype("S")
    return [bytes(text) + b"Z" for text in texts[places].tolist()]


def _values(block: PointBlock) -> Iterator[bytes]:
    """`value` and `count` of each point; a histogram is its sum and how many values it has."""
    values = block.values
    if isinstance(values, Histogram):
        counts = values.counts.sum(axis=1).tolist()
        for total, count in zip(values.sums.tolist(), counts, strict=True):
            yield b'"value":%b,"count":%d' % (repr(total).encode(), count)
    else:
        for value in values.tolist():
            yield b'"value":%b,"count":1' % repr(value).encode()


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
