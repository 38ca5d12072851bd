"""The protobuf wire format, as far as OTLP needs it: varints, delimited fields, attributes.

Scalars go through plain Python once per attribute set; columns go through numpy. Varints are always
written in their shortest form.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import AttributeSet
from retina_otel.model.batches import AttributeValue

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_MASK_64 = 2**64 - 1


def varint(value: int) -> bytes:
    """`value` as a varint; a negative one in 64-bit two's complement, as int32 and int64 are."""
    value &= _MASK_64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number: int, payload: bytes) -> bytes:
    """Field `number` of wire type 2: a message, a string, packed values."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def string(number: int, text: str) -> bytes:
    """A string field; nothing for the empty string, which is proto3's default."""
    return delimited(number, utf8(text)) if text else b""


def utf8(text: str) -> bytes:
    """UTF-8 of any str: what has no UTF-8 (lone surrogates of undecodable names) becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def any_value(value: AttributeValue) -> bytes:
    """An AnyValue's contents. Integers beyond 64 bits become decimal strings, as OTel maps them."""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if INT64_MIN <= value <= INT64_MAX:
            return b"\x18" + varint(value)
        return delimited(1, str(value).encode())
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    return delimited(1, utf8(value))


def attributes(number: int, pairs: AttributeSet) -> bytes:
    """`pairs` as repeated KeyValue fields `number`."""
    return b"".join(
        delimited(number, string(1, key) + delimited(2, any_value(value))) for key, value in pairs
    )


def varint_widths(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bytes that each varint takes, 1 to 10."""
    unsigned = values.view(np.uint64)
    widths = np.ones(len(values), np.int64)
    for bits in range(7, 64, 7):
        longer = unsigned >= np.uint64(1 << bits)
        if not longer.any():
            break
        widths += longer
    return widths


def varint_bytes(values: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.uint8]:
    """(n, width) bytes of varints that all take `width` bytes."""
    shifts = np.arange(0, 7 * width, 7, dtype=np.uint64)
    out = (values.view(np.uint64)[:, None] >> shifts & np.uint64(0x7F)).astype(np.uint8)
    out[:, :-1] |= 0x80
    return out


def varints(values: npt.NDArray[np.int64]) -> bytes:
    """Varints of a column, one after the other: packed values, without the field around them."""
    widths = varint_widths(values)
    if not len(values) or (widths == 1).all():
        return values.astype(np.uint8).tobytes()
    ends = np.cumsum(widths)
    starts = ends - widths
    unsigned = values.view(np.uint64)
    out = np.empty(int(ends[-1]), np.uint8)
    for byte in range(int(widths.max())):
        rows = np.flatnonzero(widths > byte) if byte else slice(None)
        low_bits = (unsigned[rows] >> np.uint64(7 * byte)).astype(np.uint8) & 0x7F
        out[starts[rows] + byte] = low_bits | ((widths[rows] > byte + 1).astype(np.uint8) << 7)
    return out.tobytes()


def integer_attributes(
    number: int, key: str, values: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.int64]]:
    """A KeyValue field `number` with the same key for each of `values`, and their lengths."""
    values = np.ascontiguousarray(values, np.int64)
    widths = varint_widths(values)
    objects = np.empty(len(values), object)
    lengths = np.zeros(len(values), np.int64)
    for width in np.unique(widths).tolist():
        rows = np.flatnonzero(widths == width)
        field = delimited(number, string(1, key) + delimited(2, b"\x18" + bytes(width)))
        packed = np.frombuffer(bytearray(field * len(rows)), np.uint8).reshape(len(rows), -1)
        packed[:, -width:] = varint_bytes(values[rows], width)
        objects[rows] = split(packed)
        lengths[rows] = len(field)
    return objects, lengths


def split(packed: npt.NDArray[np.uint8]) -> list[bytes]:
    """The rows of a contiguous (n, width) array as bytes objects."""
    rows: list[bytes] = packed.view(f"V{packed.shape[1]}").ravel().tolist()
    return rows


Part = bytes | npt.NDArray[np.int64] | npt.NDArray[np.uint8]


def records(n: int, parts: Iterable[Part]) -> npt.NDArray[np.object_]:
    """`n` bytes objects, each the parts side by side: bytes stand in every one, int64 columns are
    written as varints, (n, width) uint8 columns as they are."""
    fields: list[Part] = []
    forms = np.zeros(n, np.int64)
    for part in parts:
        if isinstance(part, bytes) or part.dtype == np.uint8:
            fields.append(part)
        elif n and (part == part[0]).all():
            fields.append(varint(int(part[0])))
        else:
            fields.append(part)
            forms = forms * 11 + varint_widths(part.view(np.int64))
    out = np.empty(n, object)
    if n and (forms == forms[0]).all():
        out[:] = _records_of_one_form(slice(0, n), n, fields)
        return out
    for form in sorted(set(forms.tolist())):
        rows = np.flatnonzero(forms == form)
        out[rows] = _records_of_one_form(rows, len(rows), fields)
    return out


def _records_of_one_form(
    rows: slice | npt.NDArray[np.intp],
    n: int,
    fields: list[Part],
) -> list[bytes]:
    """The records of `rows`, in which each varint takes as many bytes as in all others."""
    cells: list[bytes | npt.NDArray[np.uint8]] = []
    for part in fields:
        if isinstance(part, bytes):
            cells.append(part)
        elif part.dtype == np.uint8:
            cells.append(part[rows].view(np.uint8))
        else:
            values = np.ascontiguousarray(part[rows], np.int64)
            cells.append(varint_bytes(values, int(varint_widths(values[:1])[0])))
    widths = [len(cell) if isinstance(cell, bytes) else cell.shape[1] for cell in cells]
    packed = np.empty((n, sum(widths)), np.uint8)
    low = 0
    for cell, width in zip(cells, widths, strict=True):
        packed[:, low : low + width] = (
            np.frombuffer(cell, np.uint8) if isinstance(cell, bytes) else cell
        )
        low += width
    return split(packed)
