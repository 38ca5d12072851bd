"""pydantic's validation errors in our words: the path, what was given, what is expected."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from retina_otel.config.document import Document, KeyPath
from retina_otel.config.registry import nearest
from retina_otel.delivery.http.header_names import is_header_name
from retina_otel.errors import ConfigError

_SECRET = re.compile(
    r"token|password|secret|header|credential|connection_string|(^|_)key$"
    r"|^(bearer|basic|username|proxy_url)$",
    re.IGNORECASE,
)
"""Keys whose values may be secret, also where they are not what they should be."""

_QUOTES = "'\""
_URL_WITH_MORE = re.compile(r"//[^/]*@|:.*@|//.*\?")
"""User, password and query of a URL may be secret."""


class CombinedConfigError(ConfigError):
    """Several things are wrong at once; the message is the first one's."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        first = errors[0]
        super().__init__(first.message, first.remedy)
        self.path = first.path
        self.errors = tuple(errors)


def raise_all(errors: Sequence[ConfigError]) -> None:
    """Raises one error, or all of them together; returns if there are none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise CombinedConfigError(errors)


def translate(
    error: ValidationError, tree: type[BaseModel], documents: Sequence[Document]
) -> list[ConfigError]:
    """One ConfigError for each key that is wrong. `documents` have the highest precedence first."""
    by_path: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        loc = tuple(str(part) for part in detail["loc"])
        missing = detail["type"] == "missing"
        by_path.setdefault(loc if missing else _existing(loc, documents), []).append(detail)
    return [_one(path, details, tree, documents) for path, details in by_path.items()]


def _one(
    path: KeyPath,
    details: list[ErrorDetails],
    tree: type[BaseModel],
    documents: Sequence[Document],
) -> ConfigError:
    detail = details[0]
    where = _where(path, documents)
    dotted = ".".join(_named(path))
    if detail["type"] == "extra_forbidden":
        known = fields_at(tree, path[:-1])
        close = nearest(path[-1], known)
        inside = ".".join(path[:-1]) or "the configuration"
        remedy = (
            f"Did you mean '{'.'.join((*path[:-1], close))}'?"
            if close
            else f"Keys of {inside}: {', '.join(sorted(known)) or 'none'}."
        )
        return ConfigError(f"unknown key{where}", remedy, path=dotted)
    if detail["type"] == "missing":
        return ConfigError(f"required, but not set{where}", f"Set {dotted}.", path=dotted)
    secret = _secret(path)
    given = "a value that is not shown" if secret else _shown(detail["input"])
    expected = " or ".join(dict.fromkeys(_expectation(one) for one in details))
    if isinstance(detail["input"], dict) and expected.startswith("but "):
        # What is wrong with several keys together: none of them alone was given.
        return ConfigError(f"{expected.removeprefix('but ')}{where}", path=dotted)
    remedy = _rewriting(detail, secret=secret)
    return ConfigError(f"{given} given, {expected}{where}", remedy, path=dotted)


def _rewriting(detail: ErrorDetails, *, secret: bool) -> str:
    """The remedy for one thing where a list belongs, and for text that YAML takes for a number, a
    truth value or a date."""
    value = detail["input"]
    if detail["type"] in {"list_type", "tuple_type"} and isinstance(value, str) and not secret:
        return f"Write it as [{_shown(value).strip(_QUOTES)}]."
    if value is None or isinstance(value, str | dict | list):
        return ""
    if detail["type"] == "string_type":
        return "Put it in quotes."
    if detail["type"] == "enum" and f"'{value}'" in detail["msg"]:
        return f"Put it in quotes: '{value}'."
    return ""


def _expectation(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    message = re.sub(r"^Input should be ", "expected ", message)
    if detail["type"] in {"model_type", "model_attributes_type", "dict_type"}:
        return "expected a mapping"
    if message.startswith("expected"):
        return message
    acronym = message[1:2].isupper()
    return f"but {message if acronym else message[:1].lower() + message[1:]}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and _URL_WITH_MORE.search(value):
        return "a URL that is not shown"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _secret(path: KeyPath) -> bool:
    return path[-1:] == ("auth",) or any(_SECRET.search(part) for part in path)


def _named(path: KeyPath) -> KeyPath:
    """A path without what is no name of a header, but perhaps all of one, with its value."""
    end = path.index("headers") + 1 if "headers" in path else len(path)
    rest = (part if is_header_name(part) else "..." for part in path[end:])
    return (*path[:end], *rest)


def _where(path: KeyPath, documents: Sequence[Document]) -> str:
    for document in documents:
        if _lookup(document.data, path):
            return f" ({document.where(path)})"
    return f" ({documents[-1].where(path)})" if documents else ""


def _lookup(data: Any, path: KeyPath) -> bool:
    for part in path:
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        else:
            return False
    return True


def _existing(path: KeyPath, documents: Sequence[Document]) -> KeyPath:
    """The longest part of `path` that was written: pydantic adds names of union members to it."""
    for length in range(len(path), 0, -1):
        if any(_lookup(document.data, path[:length]) for document in documents):
            return path[:length]
    return path


def fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that may stand at `path` of a settings tree; none if nothing is known of them."""
    annotation: Any = model
    for part in path:
        annotation = _child(annotation, part)
    model_type = _model_of(annotation)
    return list(model_type.model_fields) if model_type else []


def _child(annotation: Any, part: str) -> Any:
    if model := _model_of(annotation):
        field = model.model_fields.get(part)
        return field.annotation if field else None
    for option in _options(annotation):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is dict:
            return arguments[1]
        if origin in (list, tuple, Sequence):
            return arguments[0]
    return None


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(one for arg in typing.get_args(annotation) for one in _options(arg))
    return (annotation,)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None
