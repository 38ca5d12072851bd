"""How UTF-8 names reach a scraper that wants none: Prometheus' escaping schemes, and `Naming`.

A scraper names its scheme as `escaping=` when it asks for a page. Escaping comes after translation,
and leaves a name of the classic character set alone, whatever the scheme.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from enum import Enum

from retina_otel.encode.prometheus.names import (
    DEFAULT_STRATEGY,
    TranslationStrategy,
    label_name,
    metric_name,
)
from retina_otel.model.signals import Metric

_CLASSIC_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_CLASSIC_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MOST_LABELS = 4096
"""Kept by one naming: there are few keys, unless a third party makes them of data."""


class Escaping(Enum):
    ALLOW_UTF8 = "allow-utf-8"
    UNDERSCORES = "underscores"
    """What is not classic becomes `_`. Not to be undone."""
    DOTS = "dots"
    """`.` becomes `_dot_`, `_` and all else `__`."""
    VALUES = "values"
    """`U__` before the name, and each character that is not classic as `_` code point `_`."""

    def apply(self, name: str, *, label: bool = False) -> str:
        """The name under this scheme; a label has no colons."""
        if self is Escaping.ALLOW_UTF8 or not name or is_classic(name, label=label):
            return name
        letters = "" if label else ":"
        out = []
        for place, character in enumerate(name):
            plain = character.isascii() and (
                character.isalpha() or character in letters or (character.isdigit() and place > 0)
            )
            out.append(character if plain else self._instead(character))
        return ("U__" if self is Escaping.VALUES else "") + "".join(out)

    def _instead(self, character: str) -> str:
        if self is Escaping.UNDERSCORES:
            return "_"
        if self is Escaping.DOTS:
            return "_dot_" if character == "." else "__"
        return "__" if character == "_" else f"_{ord(character):x}_"


@functools.lru_cache(maxsize=4096)
def is_classic(name: str, *, label: bool = False) -> bool:
    """Whether the name can stand without quotes."""
    return (_CLASSIC_LABEL if label else _CLASSIC_METRIC).fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Naming:
    """All that decides what things are called on a page. Equal ones give equal names: escaping
    finds nothing to do where the strategy leaves only classic names."""

    strategy: TranslationStrategy = DEFAULT_STRATEGY
    escaping: Escaping = Escaping.UNDERSCORES
    _labels: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.strategy.escapes:
            object.__setattr__(self, "escaping", Escaping.UNDERSCORES)

    def metric(self, metric: Metric) -> str:
        """The name of its samples; empty if it can have none."""
        name = metric_name(metric.name, metric.unit, metric.kind, self.strategy)
        return self.escaping.apply(name)

    def label(self, key: str) -> str:
        """The label of an attribute; empty if it can have none."""
        known = self._labels.get(key)
        if known is None:
            if len(self._labels) >= _MOST_LABELS:
                self._labels.clear()
            known = self.escaping.apply(label_name(key, self.strategy), label=True)
            self._labels[key] = known
        return known
