"""The formats of a page, and which of them a scraper gets that says what it accepts.

Whatever is asked, there is an answer: text 0.0.4 with names of the classic character set, which
every scraper reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from retina_otel.encode.prometheus.escaping import Escaping

_PROTO = "io.prometheus.client.MetricFamily"
_ESCAPINGS = {escaping.value: escaping for escaping in Escaping}


class Syntax(Enum):
    TEXT = "text/plain"
    OPENMETRICS = "application/openmetrics-text"
    PROTOBUF = "application/vnd.google.protobuf"


_VERSIONS = {
    Syntax.TEXT: ("0.0.4", "1.0.0"),
    Syntax.OPENMETRICS: ("1.0.0", "0.0.1"),
    Syntax.PROTOBUF: ("",),
}
"""Versions that are served, that of who names none first. OpenMetrics 0.0.1 and text 1.0.0 are the
same as the other version of each; text 1.0.0 is how Prometheus asks for UTF-8 names."""


@dataclass(frozen=True, slots=True)
class Format:
    syntax: Syntax = Syntax.TEXT
    version: str = "0.0.4"
    escaping: Escaping = Escaping.UNDERSCORES

    @property
    def content_type(self) -> str:
        if self.syntax is Syntax.PROTOBUF:
            kind = f"{self.syntax.value}; proto={_PROTO}; encoding=delimited"
        else:
            kind = f"{self.syntax.value}; version={self.version}; charset=utf-8"
        return f"{kind}; escaping={self.escaping.value}"


@dataclass(frozen=True, slots=True)
class _Choice:
    """One of the things that a header accepts."""

    name: str
    parameters: dict[str, str]
    weight: float


def negotiate(accept: str) -> Format:
    """The format that a scraper likes best of those there are; of equal ones the first.

    Who asks for protobuf and says nothing of escaping gets names escaped as it wants them in other
    formats.
    """
    choices = [choice for choice in _choices(accept) if choice.weight > 0]
    choices.sort(key=lambda choice: -choice.weight)
    elsewhere = next(filter(None, map(_escaping, choices)), None)
    for choice in choices:
        served = _served(choice)
        if served is not None:
            syntax, version = served
            other = elsewhere if syntax is Syntax.PROTOBUF else None
            return Format(syntax, version, _escaping(choice) or other or Escaping.UNDERSCORES)
    return Format()


def accepts_gzip(accept_encoding: str) -> bool:
    weights = {choice.name: choice.weight for choice in _choices(accept_encoding)}
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _served(choice: _Choice) -> tuple[Syntax, str] | None:
    if choice.name in ("*/*", "text/*"):
        return Syntax.TEXT, _VERSIONS[Syntax.TEXT][0]
    for syntax, versions in _VERSIONS.items():
        if choice.name == syntax.value:
            if syntax is Syntax.PROTOBUF:
                wanted = choice.parameters.get("proto"), choice.parameters.get("encoding")
                return (syntax, "") if wanted == (_PROTO, "delimited") else None
            version = choice.parameters.get("version", versions[0])
            return (syntax, version) if version in versions else None
    return None


def _escaping(choice: _Choice) -> Escaping | None:
    return _ESCAPINGS.get(choice.parameters.get("escaping", ""))


def _choices(header: str) -> Iterator[_Choice]:
    for part in header.split(","):
        name, *rest = (each.strip() for each in part.split(";"))
        if name:
            pairs = (each.partition("=") for each in rest)
            parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}
            yield _Choice(name.lower(), parameters, _weight(parameters.get("q", "1")))


def _weight(text: str) -> float:
    """0, which is not at all, for what is no weight."""
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if math.isfinite(weight) else 0.0
