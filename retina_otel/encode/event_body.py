"""Display bodies of events: a str.format template, filled for all events of a block at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from string import Formatter

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import AttributeValue
from retina_otel.pipeline.points import EventBlock

UNKNOWN = "unknown"
"""Stands where an event lacks an attribute that its body names."""


def bodies(block: EventBlock, low: int, high: int) -> list[str]:
    """The bodies of events [low, high). Fields are attribute names with dots as underscores."""
    literal, fields = _parse(block.body)
    if not fields:
        return [literal % ()] * (high - low)
    integers = {_field_name(key): values for key, values in block.integers.items()}
    wanted = {name for name, _ in fields if name not in integers}
    by_set = [
        _texts(block.sets, ids[low:high], wanted)
        for ids in (block.own, block.source, block.destination)
    ]
    columns: list[Sequence[str]] = []
    for name, show in fields:
        if name in integers:
            columns.append([show(value) for value in integers[name][low:high].tolist()])
            continue
        column = np.full(high - low, UNKNOWN, object)
        for values in reversed(by_set):
            found = values[name]
            known = np.array([value is not None for value in found], bool)
            column[known] = [show(value) for value in found[known].tolist()]
        columns.append(column.tolist())
    return list(map(literal.__mod__, zip(*columns, strict=True)))


def _texts(
    sets: AttributeSets, ids: npt.NDArray[np.int32], wanted: set[str]
) -> dict[str, npt.NDArray[np.object_]]:
    """For each wanted field its value in each event's set, or None."""
    used, rows = np.unique(ids, return_inverse=True)
    found = [
        {_field_name(key): value for key, value in sets.get(number)} for number in used.tolist()
    ]
    out = {}
    for name in wanted:
        values = np.empty(len(found), object)
        values[:] = [pairs.get(name) for pairs in found]
        out[name] = values[rows]
    return out


@lru_cache(maxsize=256)
def _parse(template: str) -> tuple[str, list[tuple[str, Callable[[AttributeValue], str]]]]:
    """A %-template of strings, and for each of its places the field and how it is shown.

    A body is for display: one that is no template stands as it is, and a value that does not fit
    its format is shown plainly, since an event must not be lost over it.
    """
    literal = ""
    fields = []
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        parts = [(template, None, None, None)]
    for text, name, spec, conversion in parts:
        literal += text.replace("%", "%%")
        if name is not None:
            literal += "%s"
            fields.append((name, _shower(spec or "", conversion)))
    return literal, fields


def _shower(spec: str, conversion: str | None) -> Callable[[AttributeValue], str]:
    def show(value: AttributeValue) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        try:
            return format(repr(value) if conversion == "r" else value, spec)
        except ValueError:
            return str(value)

    return show if spec or conversion else _plain


def _plain(value: AttributeValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@lru_cache(maxsize=4096)
def _field_name(key: str) -> str:
    return key.replace(".", "_")
