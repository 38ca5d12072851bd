"""The little of OTLP's protobuf that delivery itself must read: count, split, and answers.

Works on the wire format alone, so that a request that is too large can be halved at a boundary
between points, whoever encoded it: both halves together hold each point exactly once, in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class RequestShape:
    """Field numbers that lead from an export request down to its items, one set a level."""

    levels: tuple[frozenset[int], ...]

    def count(self, request: bytes) -> int:
        """How many points or records a request holds. Raises ValueError if it is no protobuf."""
        return self._count(memoryview(request), 0)

    def split(self, request: bytes) -> tuple[bytes, bytes] | None:
        """Two requests with half of the items each; None if there is at most one item."""
        items = self.count(request)
        if items <= 1:
            return None
        whole = memoryview(request)
        middle = items // 2
        return self._select(whole, 0, 0, middle)[0], self._select(whole, 0, middle, items)[0]

    def _count(self, message: memoryview, level: int) -> int:
        wanted = self.levels[level]
        last = level == len(self.levels) - 1
        total = 0
        for number, _, _, payload in _fields(message):
            if number in wanted and payload is not None:
                total += 1 if last else self._count(payload, level + 1)
        return total

    def _select(
        self, message: memoryview, level: int, first: int, end: int
    ) -> tuple[bytes, int, int]:
        """The message with items [first, end) only; how many it keeps, and how many it had."""
        wanted = self.levels[level]
        last = level == len(self.levels) - 1
        out = bytearray()
        seen = kept = 0
        for number, start, stop, payload in _fields(message):
            if number not in wanted or payload is None:
                out += message[start:stop]
            elif last:
                if first <= seen < end:
                    out += message[start:stop]
                    kept += 1
                seen += 1
            else:
                part, inner_kept, inner_seen = self._select(
                    payload, level + 1, first - seen, end - seen
                )
                if inner_kept:
                    out += _varint_bytes(number << 3 | _BYTES) + _varint_bytes(len(part)) + part
                kept += inner_kept
                seen += inner_seen
        return bytes(out), kept, seen


METRICS = RequestShape(
    (
        frozenset({1}),  # resource_metrics
        frozenset({2}),  # scope_metrics
        frozenset({2}),  # metrics
        frozenset({5, 7, 9, 10, 11}),  # gauge, sum, histogram, exponential histogram, summary
        frozenset({1}),  # data_points
    )
)
LOGS = RequestShape((frozenset({1}), frozenset({2}), frozenset({2})))


def partial_success(response: bytes) -> tuple[int, str]:
    """Rejected items and message of an Export*ServiceResponse. Raises ValueError if it is none."""
    rejected, message = 0, ""
    for number, _, _, payload in _fields(memoryview(response)):
        if number != 1 or payload is None:
            continue
        for inner, start, stop, text in _fields(payload):
            if inner == 1 and text is None:
                rejected = _varint_value(payload[start:stop])
            elif inner == 2 and text is not None:
                message = bytes(text).decode(errors="replace")
    return rejected, message


def status_message(response: bytes) -> str:
    """The message of a google.rpc.Status, OTLP's form of an error. May raise ValueError."""
    for number, _, _, payload in _fields(memoryview(response)):
        if number == 2 and payload is not None:
            return bytes(payload).decode(errors="replace")
    return ""


_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"


def retry_delay_s(status: bytes) -> float | None:
    """How long the RetryInfo in a google.rpc.Status says to wait; None if there is none. Raises
    ValueError if it is no protobuf."""
    for detail in _messages(memoryview(status), 3):
        if not any(bytes(url) == _RETRY_INFO for url in _messages(detail, 1)):
            continue
        delay = 0.0
        for info in _messages(detail, 2):
            for duration in _messages(info, 1):
                for number, start, stop, payload in _fields(duration):
                    if number in (1, 2) and payload is None:
                        value = _varint_value(duration[start:stop])
                        delay += value if number == 1 else value / 1e9
        return max(0.0, delay)
    return None


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The payloads of one length-delimited field."""
    for number, _, _, payload in _fields(message):
        if number == wanted and payload is not None:
            yield payload


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, memoryview | None]]:
    """(field number, start, end, payload if it is length-delimited) of each field of a message."""
    position, size = 0, len(message)
    while position < size:
        start = position
        tag, position = _varint(message, position)
        kind = tag & 7
        payload = None
        if kind == _BYTES:
            length, position = _varint(message, position)
            payload = message[position : position + length]
            position += length
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        elif kind == _VARINT:
            _, position = _varint(message, position)
        else:
            raise ValueError(f"wire type {kind} at byte {start}")
        if position > size or tag >> 3 == 0:
            raise ValueError(f"a field that ends beyond its message, at byte {start}")
        yield tag >> 3, start, position, payload


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError(f"a number that does not end, at byte {position}")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7


def _varint_value(field: memoryview) -> int:
    """The number in a varint field, tag included, as a signed 64-bit one."""
    _, position = _varint(field, 0)
    value, _ = _varint(field, position)
    return value - (1 << 64) if value >= 1 << 63 else value


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
