"""Durations and byte sizes as a Collector's configuration writes them: "15s", "500ms", "4MiB".

Fields annotated with these types hold plain numbers (seconds as float, bytes as int). A duration
without a unit is refused rather than guessed, because tools disagree on what it would mean.
Defaults are written as people write them, which keeps them readable in the generated schema:
`interval: PositiveDuration = Field(default="15s", validate_default=True, description=...)`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_BYTES = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_LONGEST_S = 100 * 365 * 24 * 3600
"""What a wait may last, and what can be added to a time in 64 bits, is not much longer."""
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_DURATION = r"^(0|((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+)$"
_BYTE_SIZE = r"^\d+(\.\d+)? ?(B|KB|MB|GB|KiB|MiB|GiB)?$"


def parse_duration(text: str) -> float:
    """Seconds in a text such as "1m30s". Raises ValueError with what would be right."""
    text = text.strip()
    if text == "0":
        return 0.0
    if not re.match(_DURATION, text):
        raise ValueError(f'{text!r} is not a duration: write number and unit, as "15s" or "500ms"')
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads as `seconds`, in one unit."""
    if seconds == 0:
        return "0"
    for unit in ("h", "m", "s", "ms", "us"):
        amount = round(seconds / _SECONDS[unit], 9)
        if amount >= 1 and amount == int(amount):
            return f"{int(amount)}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def parse_byte_size(text: str) -> int:
    """Bytes in a text such as "4MiB". Raises ValueError with what would be right."""
    text = text.strip()
    if not re.match(_BYTE_SIZE, text):
        raise ValueError(f'{text!r} is not a size: write bytes, or a unit as in "4MiB" or "500KB"')
    number = text.rstrip("BKMGi ")
    return int(float(number) * _BYTES[text[len(number) :].strip()])


def format_byte_size(size: int) -> str:
    """The shortest exact text for `size` bytes."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)


def _duration(value: Any) -> float:
    if isinstance(value, str):
        seconds = parse_duration(value)
        if seconds > _LONGEST_S:
            raise ValueError("it is longer than 100 years")
        return seconds
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    raise ValueError(f'{value!r} has no unit: write a duration as "15s" or "500ms"')


def _byte_size(value: Any) -> int:
    if isinstance(value, str):
        return parse_byte_size(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f'{value!r} is not a size: write bytes, or a unit as in "4MiB"')


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION, "examples": ["15s", "500ms", "1m30s"]}),
]
"""A duration, zero allowed; in Python float seconds."""

PositiveDuration = Annotated[
    float,
    BeforeValidator(_duration),
    AfterValidator(_above_zero),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION, "examples": ["15s", "500ms", "1m30s"]}),
]
"""A duration above zero; in Python float seconds."""

ByteSize = Annotated[
    int,
    BeforeValidator(_byte_size),
    PlainSerializer(format_byte_size, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _BYTE_SIZE}],
            "examples": ["4MiB", 4194304],
        }
    ),
]
"""A number of bytes; in Python int."""
