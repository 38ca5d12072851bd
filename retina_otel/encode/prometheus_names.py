"""Prometheus names of OTel metrics and attributes: UnderscoreEscapingWithSuffixes.

The default strategy of Prometheus' own OTLP receiver and of the Collector's exporters, so that a
series has one name whichever way it came.
"""

from __future__ import annotations

import re

from retina_otel.model.batches import AttributeValue
from retina_otel.model.signals import Kind

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
_NOT_LABEL = re.compile(r"[^a-zA-Z0-9]+")
_RESERVED_LABELS = frozenset(
    {"le", "quantile", "otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}
)


def family_name(name: str, unit: str, kind: Kind) -> str:
    """The metric's name with its unit, without `_total`. Empty if nothing of the name is left.

    A counter's samples are called `family_name(...) + "_total"`.
    """
    tokens = [token for token in _NOT_METRIC.split(name) if token]
    main, per = _unit_words(unit)
    if main and main not in tokens:
        tokens.append(main)
    if per and per not in tokens:
        tokens.append(per)
    if kind is Kind.COUNTER:
        tokens = [token for token in tokens if token != "total"]
    if kind is Kind.GAUGE and unit == "1":
        tokens = [token for token in tokens if token != "ratio"] + ["ratio"]
    joined = "_".join(tokens)
    return "_" + joined if joined[:1].isdigit() else joined


def unit_word(unit: str, kind: Kind) -> str:
    """The unit as OpenMetrics' UNIT line says it, empty where there is none."""
    if unit == "1":
        return "ratio" if kind is Kind.GAUGE else ""
    return "_".join(word for word in _unit_words(unit) if word)


def label_name(key: str) -> str:
    """The label of an attribute; empty if nothing of the key is left."""
    if key.startswith("__") and key.endswith("__") and len(key) > 4:
        inner = _NOT_LABEL.sub("_", key[2:-2])
        return f"__{inner}__"
    name = _NOT_LABEL.sub("_", key)
    if not name.strip("_"):
        return ""
    if name in _RESERVED_LABELS:
        return "exported_" + name
    return "key_" + name if name[0].isdigit() else name


def label_value(value: AttributeValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def escaped(value: str) -> str:
    """A label value between its quotes; a HELP text of OpenMetrics."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _unit_words(unit: str) -> tuple[str, str]:
    main, _, per = unit.partition("/")
    words = []
    for part, known in ((main.strip(), _UNITS), (per.strip(), _PER_UNITS)):
        word = "" if "{" in part or "}" in part else known.get(part, part)
        words.append(_NOT_METRIC.sub("_", word).strip("_"))
    return words[0], f"per_{words[1]}" if words[1] else ""
