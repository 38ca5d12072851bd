"""PromQL over our signals: names of metrics and labels as a translation strategy writes them.

A query is made of the objects of `model.signals`, so one that names a metric or attribute which is
not there can't be written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from retina_otel.encode.prometheus.names import (
    DEFAULT_STRATEGY,
    TranslationStrategy,
    label_name,
    metric_name,
)
from retina_otel.model.preview import METRICS
from retina_otel.model.signals import END_ATTRIBUTES, Attribute, Ends, Metric

_CLASSIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@dataclass(frozen=True, slots=True)
class Label:
    """An attribute where it stands: `source.` or `destination.` before it for one of two ends."""

    key: str

    @classmethod
    def of(cls, attribute: Attribute) -> Label:
        return cls(attribute.name)

    @classmethod
    def source(cls, attribute: Attribute) -> Label:
        return cls(f"source.{attribute.name}")

    @classmethod
    def destination(cls, attribute: Attribute) -> Label:
        return cls(f"destination.{attribute.name}")


@dataclass(frozen=True, slots=True)
class Match:
    """A condition on a label; `operator` is one of PromQL's four."""

    label: Label
    value: str
    operator: str = "="


class PromQL:
    """Writes parts of queries for one translation strategy."""

    def __init__(self, strategy: TranslationStrategy = DEFAULT_STRATEGY) -> None:
        self._strategy = strategy

    def series(self, metric: Metric, *matches: Match) -> str:
        """A selector of the metric's samples. Raises ValueError for a label that it has not."""
        return self._selector(metric.name, metric, matches)

    def by_any_name(self, metric: Metric) -> str:
        """As `series`, also of what an agent with `semconv_preview` calls by the draft's name."""
        names = [self._name(name, metric) for name in _names(metric)]
        return f'{{__name__=~"{"|".join(names)}"}}'

    def _name(self, name: str, metric: Metric) -> str:
        return metric_name(name, metric.unit, metric.kind, self._strategy)

    def _selector(self, name: str, metric: Metric, matches: Iterable[Match]) -> str:
        known = labels_of(metric)
        for match in matches:
            if match.label.key not in known and match.label not in RESOURCE_LABELS:
                raise ValueError(f"{metric.name} has no attribute {match.label.key}")
        name = self._name(name, metric)
        conditions = [f'{self.label(m.label)}{m.operator}"{m.value}"' for m in matches]
        if _CLASSIC_NAME.fullmatch(name):
            return name + (f"{{{','.join(conditions)}}}" if conditions else "")
        return "{" + ",".join([f'"{name}"', *conditions]) + "}"

    def label(self, label: Label) -> str:
        """The label's name, quoted where PromQL wants that."""
        name = label_name(label.key, self._strategy)
        return name if _CLASSIC_NAME.fullmatch(name) else f'"{name}"'

    def plain_label(self, label: Label) -> str:
        """The label's name without quotes, as Grafana's legends and templates take it."""
        return label_name(label.key, self._strategy)

    def sum_by(self, labels: Iterable[Label], expression: str) -> str:
        """A sum that keeps `labels`."""
        return f"sum by ({', '.join(map(self.label, labels))}) ({expression})"

    def rate(self, metric: Metric, *matches: Match, window: str) -> str:
        """Also of what an agent with `semconv_preview` calls by the draft's name; `or` takes one of
        both where an agent changes from the one to the other."""
        rates = [
            f"rate({self._selector(name, metric, matches)}[{window}])" for name in _names(metric)
        ]
        return rates[0] if len(rates) == 1 else f"({' or '.join(rates)})"

    def ours(self, expression: str, marker: Metric) -> str:
        """Of what others report under the same name (`system.network.io`), our agents' alone:
        `marker` is a metric that nobody else has."""
        return f"({expression} and on (job, instance) {self.series(marker)})"

    def increase(self, metric: Metric, *matches: Match, window: str) -> str:
        return f"increase({self.series(metric, *matches)}[{window}])"


def _names(metric: Metric) -> tuple[str, ...]:
    """Ours, and that of the conventions' draft if there is one."""
    draft = METRICS.get(metric.name)
    return (metric.name,) if draft is None else (metric.name, draft)


def labels_of(metric: Metric) -> frozenset[str]:
    """Keys of what a point of the metric may carry, apart from attributes of ends."""
    own = {attribute.name for attribute in metric.attributes}
    prefixes = {Ends.BOTH: ("source.", "destination."), Ends.ONE: ("",)}.get(metric.ends, ())
    ends = {prefix + end.name for prefix in prefixes for end in END_ATTRIBUTES}
    return frozenset(own | ends)


CLUSTER = Label("k8s.cluster.name")
NODE = Label("k8s.node.name")
RESOURCE_LABELS = (CLUSTER, NODE)
"""Of the resource: labels of every series that remote write or a gateway of ours sends."""
