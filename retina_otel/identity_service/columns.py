"""Columns of values as JSON: constants, dictionaries, whole seconds, plain lists.

Objects of a cluster share most of what they say; a column of 30,000 namespaces is a few names and
small numbers, and whoever reads it gets shared strings. What does not hold a column of the expected
type and length is refused with ValueError, never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Type:
    """What a column holds. `to_json` and `from_json` are None where JSON has the very same value;
    `from_json` raises ValueError or TypeError for what is not valid."""

    python: type
    default: Any
    to_json: Callable[[Any], Any] | None = None
    from_json: Callable[[Any], Any] | None = None


def _strings(value: Any) -> tuple[str, ...]:
    if type(value) is not list or not all(type(one) is str for one in value):
        raise ValueError("a list of strings is expected")
    return tuple(value)


def _integers(value: Any) -> tuple[int, ...]:
    if type(value) is not list or not all(type(one) is int for one in value):
        raise ValueError("a list of integers is expected")
    return tuple(value)


STRING = Type(str, "")
BOOLEAN = Type(bool, False)
TIME = Type(int, 0)
STRINGS = Type(tuple, (), list, _strings)
INTEGERS = Type(tuple, (), list, _integers)


def encode(values: Sequence[Any], of: Type) -> dict[str, Any] | None:
    """The column for JSON; None if all values are the default, for a column that is left out.

    {"c": value} all the same · {"d": values, "i": indices} few distinct ones · {"s": integers}
    times in whole seconds · {"v": values} anything else.
    """
    distinct = dict.fromkeys(values)
    if len(distinct) == 1:
        (only,) = distinct
        return None if only == of.default else {"c": _json(only, of)}
    if 2 * len(distinct) <= len(values):
        for index, value in enumerate(distinct):
            distinct[value] = index
        return {
            "d": [_json(value, of) for value in distinct],
            "i": [distinct[value] for value in values],
        }
    if of is TIME and not any(value % _SECOND for value in values):
        return {"s": [value // _SECOND for value in values]}
    return {"v": [_json(value, of) for value in values]}


def decode(column: Any, of: Type, count: int) -> Iterable[Any]:
    """`count` values of a column that JSON gave, None for one that is not there. Raises ValueError
    with what is wrong."""
    if column is None:
        return repeat(of.default, count)
    if type(column) is not dict:
        raise ValueError("a column is an object")
    if "c" in column:
        return repeat(_values([column["c"]], of)[0], count)
    if "d" in column:
        return _looked_up(_values(column["d"], of), column.get("i"), count)
    if "s" in column:
        seconds = _of_length(column["s"], count)
        _check(seconds, int)
        return [second * _SECOND for second in seconds]
    return _values(_of_length(column.get("v"), count), of)


def _json(value: Any, of: Type) -> Any:
    return value if of.to_json is None or value is None else of.to_json(value)


def _values(given: Any, of: Type) -> list[Any]:
    if type(given) is not list:
        raise ValueError("the values of a column are a list")
    if of.from_json is None:
        _check(given, of.python, also=type(of.default))
        return given
    read = of.from_json
    try:
        return [of.default if value is None else read(value) for value in given]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"a value is not valid: {error}") from error


def _looked_up(distinct: list[Any], indices: Any, count: int) -> Iterator[Any]:
    indices = _of_length(indices, count)
    _check(indices, int)
    if indices and not 0 <= min(indices) <= max(indices) < len(distinct):
        raise ValueError("an index is outside its dictionary")
    return map(distinct.__getitem__, indices)


def _of_length(values: Any, count: int) -> list[Any]:
    if type(values) is not list or len(values) != count:
        raise ValueError(f"a column of {count} values is expected")
    return values


def _check(values: list[Any], expected: type, also: type | None = None) -> None:
    if not set(map(type, values)) <= {expected, also}:
        raise ValueError(f"values of type {expected.__name__} are expected")
