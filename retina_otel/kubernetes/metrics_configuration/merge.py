"""Several MetricsConfigurations as one: which metrics with which labels, in which namespaces.

The rules, the same whatever the order of the objects:

* Metrics that any object names are reported; Retina's other metrics are not.
* A metric has the labels that any object asks for, and the longest ttl that any gives it.
* Includes add up, excludes add up. A namespace that is included is observed, also where another
  object excludes it. Excludes alone leave all other namespaces observed, includes alone only those.

No object: nothing is changed and everything is observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from retina_otel.kubernetes.metrics_configuration.objects import (
    ContextOption,
    MetricsConfiguration,
    Spec,
)
from retina_otel.kubernetes.metrics_configuration.retina_names import (
    ADDITIONAL_LABELS,
    END_LABELS,
    METRICS,
    own_attributes,
)
from retina_otel.pipeline.identity.selection import View
from retina_otel.pipeline.overlay import Overlay


@dataclass(frozen=True, slots=True)
class MetricChoice:
    """What is asked for one of Retina's metrics. Labels are Retina's."""

    source: frozenset[str] = frozenset()
    destination: frozenset[str] = frozenset()
    additional: frozenset[str] = frozenset()
    ttl_s: float | None = None

    def and_of(self, option: ContextOption) -> MetricChoice:
        given = [ttl for ttl in (self.ttl_s, option.ttl_s) if ttl is not None]
        return MetricChoice(
            self.source.union(option.source),
            self.destination.union(option.destination),
            self.additional.union(option.additional),
            max(given, default=None),
        )


@dataclass(frozen=True, slots=True)
class Merged:
    """What all MetricsConfigurations together say."""

    metrics: Mapping[str, MetricChoice] = field(default_factory=dict)
    """By Retina's name; empty: none says anything."""
    included: frozenset[str] = frozenset()
    excluded: frozenset[str] | None = None
    """None: no object excludes, so that only what is included is observed."""

    @property
    def anything(self) -> bool:
        return bool(self.metrics)

    def observes(self, namespace: str) -> bool:
        """Whether the pods of a namespace are observed by these objects (annotations aside)."""
        if not self.anything or namespace in self.included:
            return True
        return self.excluded is not None and namespace not in self.excluded


def merge(configurations: Iterable[MetricsConfiguration]) -> Merged:
    """Objects that have an error count with what was accepted of them before, if anything was."""
    specs = [one.in_force for one in configurations]
    return merge_specs(spec for spec in specs if spec is not None)


def merge_specs(specs: Iterable[Spec]) -> Merged:
    metrics: dict[str, MetricChoice] = {}
    included: set[str] = set()
    excluded: set[str] | None = None
    for spec in specs:
        for option in spec.options:
            metrics[option.metric] = metrics.get(option.metric, MetricChoice()).and_of(option)
        included.update(spec.include or ())
        if spec.exclude is not None:
            excluded = (excluded or set()).union(spec.exclude)
    return Merged(metrics, frozenset(included), None if excluded is None else frozenset(excluded))


def overlay(merged: Merged, view: View) -> Overlay:
    """What pipelines report. In view NODE there are no pods to label: nothing is changed. In view
    LOCAL, as in Retina, a label is the local pod's, whichever end that is."""
    if not merged.anything or view is View.NODE:
        return Overlay()
    attributes: dict[str, tuple[str, ...]] = {}
    expiry: dict[str, float] = {}
    for name, metric in METRICS.items():
        choice = merged.metrics.get(name)
        if choice is None:
            continue
        source, destination = choice.source, choice.destination
        if view is View.LOCAL:
            source = destination = source | destination
        chosen = dict.fromkeys(own_attributes(metric))
        chosen |= dict.fromkeys(ADDITIONAL_LABELS[label] for label in sorted(choice.additional))
        for prefix, labels in (("source.", source), ("destination.", destination)):
            chosen |= dict.fromkeys(
                prefix + attribute
                for label, names in END_LABELS.items()
                if label in labels
                for attribute in names
            )
        attributes[metric.name] = tuple(chosen)
        if choice.ttl_s is not None:
            expiry[metric.name] = choice.ttl_s
    unnamed = frozenset(
        metric.name for name, metric in METRICS.items() if name not in merged.metrics
    )
    return Overlay(attributes, expiry, unnamed)
