"""Reads protobuf messages of remote write field by field, and refuses what is not in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class NotRemoteWrite(Exception):  # noqa: N818 - what it is about reads better without "Error"
    """A request that breaks the specification; the text says which rule."""


def fields(raw: bytes, known: Mapping[int, type]) -> Iterator[tuple[int, Any]]:
    """Number and value of each field. `known` gives their kinds: int (as it stands in a varint),
    float (bits of a double), bytes; any other field is a fault."""
    wire = {int: 0, float: 1, bytes: 2}
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position)
        kind = known.get(tag >> 3)
        if kind is None or wire[kind] != tag & 7:
            raise NotRemoteWrite(f"field {tag >> 3} of wire type {tag & 7} is not in the message")
        if kind is int:
            value, position = _varint(raw, position)
            yield tag >> 3, value
            continue
        size = 8
        if kind is bytes:
            size, position = _varint(raw, position)
        if position + size > len(raw):
            raise NotRemoteWrite("a field ends beyond its message")
        chunk = raw[position : position + size]
        yield tag >> 3, chunk if kind is bytes else int.from_bytes(chunk, "little")
        position += size


def packed(raw: bytes) -> Iterator[int]:
    position = 0
    while position < len(raw):
        value, position = _varint(raw, position)
        yield value


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    start, value = position, 0
    while True:
        if position >= len(raw) or position - start > 9:
            raise NotRemoteWrite("a varint that does not end")
        byte = raw[position]
        value |= (byte & 0x7F) << 7 * (position - start)
        position += 1
        if byte < 0x80:
            break
    if byte == 0 and position - start > 1:
        raise NotRemoteWrite("a varint that is longer than it has to be")
    return value, position


def signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def zigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)
