"""Prometheus names of OTel metrics and attributes, by the four strategies that Prometheus knows.

The rules and the strategies' names are those of Prometheus' own OTLP receiver and of the
Collector's exporters, so that a series has one name whichever way it came.
"""

from __future__ import annotations

import re
from enum import Enum

from retina_otel.encode.protobuf import utf8
from retina_otel.model.batches import AttributeValue
from retina_otel.model.signals import Kind


class TranslationStrategy(Enum):
    """What becomes of a name on its way to Prometheus."""

    UNDERSCORE_ESCAPING_WITH_SUFFIXES = "UnderscoreEscapingWithSuffixes"
    """`retina.flow.io` in `By` becomes `retina_flow_io_bytes_total`."""
    UNDERSCORE_ESCAPING_WITHOUT_SUFFIXES = "UnderscoreEscapingWithoutSuffixes"
    """... becomes `retina_flow_io`."""
    NO_UTF8_ESCAPING_WITH_SUFFIXES = "NoUTF8EscapingWithSuffixes"
    """... becomes `retina.flow.io_bytes_total`."""
    NO_TRANSLATION = "NoTranslation"
    """... stays `retina.flow.io`."""

    @property
    def escapes(self) -> bool:
        """What the classic character set lacks becomes an underscore."""
        return self.value.startswith("UnderscoreEscaping")

    @property
    def adds_suffixes(self) -> bool:
        """Metric names end with their unit, counters with `_total`."""
        return self.value.endswith("WithSuffixes")


DEFAULT_STRATEGY = TranslationStrategy.UNDERSCORE_ESCAPING_WITH_SUFFIXES

_UNITS = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "TiBy": "tibibytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "1": "",
    "%": "percent",
}
_PER_UNITS = {
    "s": "second",
    "m": "minute",
    "h": "hour",
    "d": "day",
    "w": "week",
    "mo": "month",
    "y": "year",
}
_NOT_METRIC = re.compile(r"[^a-zA-Z0-9:]+")
_NOT_METRIC_NOR_UNDERSCORE = re.compile(r"[^a-zA-Z0-9:_]+")
_NOT_LABEL = re.compile(r"[^a-zA-Z0-9]+")
_RESERVED_LABELS = frozenset(
    {
        "__name__",
        "le",
        "quantile",
        "otel_scope_name",
        "otel_scope_version",
        "otel_scope_schema_url",
    }
)


def metric_name(
    name: str, unit: str, kind: Kind, strategy: TranslationStrategy = DEFAULT_STRATEGY
) -> str:
    """The name of the metric's samples; a histogram's without `_bucket` and the like.

    Empty if nothing of the name is left.
    """
    if not strategy.escapes:
        return _with_suffixes(name, unit, kind) if strategy.adds_suffixes else name
    if strategy.adds_suffixes:
        out = "_".join(_tokens(name, unit, kind))
    else:
        out = "_".join(filter(None, _NOT_METRIC_NOR_UNDERSCORE.split(name)))
    if out != name and not out.strip("_"):
        return ""
    return "_" + out if out[:1].isdigit() else out


def family_name(
    name: str, unit: str, kind: Kind, strategy: TranslationStrategy = DEFAULT_STRATEGY
) -> str:
    """The metric's name as OpenMetrics calls the family: a counter's without `_total`."""
    full = metric_name(name, unit, kind, strategy)
    return full.removesuffix("_total") if kind is Kind.COUNTER else full


def unit_word(unit: str, kind: Kind) -> str:
    """The unit as OpenMetrics' UNIT line says it, empty where there is none."""
    if unit == "1":
        return "ratio" if kind is Kind.GAUGE else ""
    return "_".join(filter(None, map(_clean, _unit_words(unit)))).strip("_")


def label_name(key: str, strategy: TranslationStrategy = DEFAULT_STRATEGY) -> str:
    """The label of an attribute; empty if nothing of the key is left.

    Labels that Prometheus or OTel give a meaning are out of an attribute's reach: theirs is
    `exported_` and the name.
    """
    if not key.strip("_"):
        return ""
    name = _escaped_label(key) if strategy.escapes else key
    if name in _RESERVED_LABELS:
        return "exported_" + name
    return name if name.strip("_") else ""


def label_value(value: AttributeValue) -> str:
    """The value as text that has UTF-8: what becomes equal on the wire is equal here."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return text if text.isascii() else utf8(text).decode()


def escaped(value: str) -> str:
    """A label value between its quotes; a HELP text of OpenMetrics."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escaped_label(key: str) -> str:
    if key.startswith("__") and key.endswith("__") and len(key) >= 4:
        return f"__{_NOT_LABEL.sub('_', key[2:-2])}__"
    name = _NOT_LABEL.sub("_", key)
    return "key_" + name if name[0].isdigit() else name


def _tokens(name: str, unit: str, kind: Kind) -> list[str]:
    """The words of an escaped name with suffixes; a word that is there already is not repeated."""
    tokens = [token for token in _NOT_METRIC.split(name) if token]
    main, per = map(_clean, _unit_words(unit))
    main = "" if main in tokens else main
    per = "" if per == "per_" else per.removesuffix("_")
    if per and per not in tokens:
        tokens += [main.removesuffix("_"), per] if main else [per]
    elif main:
        tokens.append(main)
    suffix = _kind_suffix(unit, kind)
    return [token for token in tokens if token != suffix] + [suffix] if suffix else tokens


def _with_suffixes(name: str, unit: str, kind: Kind) -> str:
    """The name as it is, its suffixes in order: unit, per unit, kind."""
    main, per = _unit_words(unit)
    suffix = _kind_suffix(unit, kind)
    name = _without_last_word(_without_last_word(name, suffix), per)
    if main and not name.endswith(main):
        name = f"{name}_{main}"
    return "_".join([name, *filter(None, (per, suffix))])


def _without_last_word(name: str, word: str) -> str:
    """`name` without `word` and the character before it, whatever that is, if it ends so."""
    if word and name.endswith(word) and len(name) > len(word) + 1:
        return name[: -len(word) - 1]
    return name


def _kind_suffix(unit: str, kind: Kind) -> str:
    if kind is Kind.COUNTER:
        return "total"
    return "ratio" if kind is Kind.GAUGE and unit == "1" else ""


def _unit_words(unit: str) -> tuple[str, str]:
    """The words of a unit and of what it is per, in full where they are known ones."""
    main, _, per = unit.partition("/")
    words = []
    for part, known in ((main.strip(), _UNITS), (per.strip(), _PER_UNITS)):
        words.append("" if "{" in part or "}" in part else known.get(part, part))
    return words[0], f"per_{words[1]}" if words[1] else ""


def _clean(words: str) -> str:
    return _NOT_METRIC.sub("_", words).removeprefix("_")
