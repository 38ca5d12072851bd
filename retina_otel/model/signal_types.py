"""What a metric, an event and an attribute is; `signals` and `attributes` declare ours."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PREFIX = "retina."
"""Namespace of names that no released semantic convention has: the one place that says so."""

SCHEMA_URL = "https://retina-otel.dev/schemas/0.1.0"
"""Schema of our own names, which build on semantic conventions 1.44.0."""


class Kind(Enum):
    """What a value means, and so how two of them are combined."""

    COUNTER = "counter"
    """Delta over the window; adds up for ever."""
    UPDOWN = "updown"
    """A current amount; replaced each window, summed when attributes are dropped."""
    GAUGE = "gauge"
    """A current reading; replaced each window, folded by `fold` when attributes are dropped."""
    HISTOGRAM = "histogram"
    """Bucket counts, sum over the window; adds up for ever."""


class Fold(Enum):
    """How a gauge's values become one when the attributes that told them apart are dropped."""

    SUM = "sum"
    MAX = "max"
    LAST = "last"


class Ends(Enum):
    """How many endpoints a metric or event has."""

    NONE = "none"
    ONE = "one"
    """Attributes of the endpoint stand on the point without prefix: `k8s.pod.name`."""
    BOTH = "both"
    """Attributes stand under `source.` and `destination.`."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A key. `stability` is stable, release_candidate, development or draft (not released)."""

    name: str
    type: str  # "string" | "int" | "boolean" | "double"
    brief: str
    stability: str = "development"
    examples: tuple[str | int | bool, ...] = ()
    opt_in: bool = False
    """Not on a metric unless chosen: it is unbounded, or not everybody wants to pay for it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. `attributes` are its own; those of its ends come from identity."""

    name: str
    kind: Kind
    unit: str  # UCUM: "By", "{packet}", "s", "1"
    brief: str
    attributes: tuple[Attribute, ...] = ()
    ends: Ends = Ends.NONE
    fold: Fold = Fold.LAST
    boundaries: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets; one more bucket takes the rest."""
    scope: str = ""
    """Instrumentation scope: the dotted path of the module that reports it."""
    stability: str = "development"
    integer: bool = True
    """int64 values; False for double."""

    @property
    def monotonic(self) -> bool:
        return self.kind is Kind.COUNTER


@dataclass(frozen=True, slots=True)
class Event:
    """A log record with an event name. Severity as in the log data model: INFO 9, WARN 13."""

    name: str
    severity: int
    brief: str
    attributes: tuple[Attribute, ...] = ()
    ends: Ends = Ends.NONE
    scope: str = ""
    stability: str = "development"


Signal = Metric | Event
