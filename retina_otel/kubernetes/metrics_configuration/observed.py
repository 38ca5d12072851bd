"""Which pods are observed, by annotations and by MetricsConfigurations together.

Each may name pods, and what either names is observed:

* `retina.sh: observe` on a pod or its namespace, where annotations are asked for;
* the namespaces that MetricsConfigurations leave observed.

So an annotation wins over an exclude: it is the nearer word. Where annotations are asked for and
there is no MetricsConfiguration, only what is annotated is observed; where neither is there,
everything is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retina_otel.kubernetes.metrics_configuration.merge import Merged
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind
from retina_otel.pipeline.identity.selection import View

ANNOTATION = "retina.sh"
OBSERVE = "observe"


def asks_for_observation(annotations: Mapping[str, str]) -> bool:
    """Whether a pod's or namespace's own annotations ask for it."""
    return annotations.get(ANNOTATION) == OBSERVE


@dataclass(frozen=True, slots=True)
class Observed:
    """A predicate over endpoints, as `Selection.set(observed=...)` takes it. Equal ones select the
    same."""

    pods: frozenset[str] = frozenset()
    """UIDs of annotated pods."""
    namespaces: frozenset[str] = frozenset()
    """Names of annotated namespaces."""
    by_configurations: Merged | None = None
    """None: there are none."""

    def __call__(self, endpoint: Endpoint) -> bool:
        if endpoint.kind is not EndpointKind.POD or endpoint.key in self.pods:
            return True
        namespace = str(endpoint.attributes.get("k8s.namespace.name", ""))
        return namespace in self.namespaces or (
            self.by_configurations is not None and self.by_configurations.observes(namespace)
        )


def observed(
    merged: Merged,
    view: View,
    *,
    annotations: bool,
    pods: frozenset[str] = frozenset(),
    namespaces: frozenset[str] = frozenset(),
) -> Observed | None:
    """None: everything is observed, as always in view NODE, which knows no pods. `pods` and
    `namespaces` are the annotated ones; they count only if `annotations` are asked for."""
    if view is View.NODE:
        return None
    if not annotations:
        return Observed(by_configurations=merged) if merged.anything else None
    return Observed(pods, namespaces, merged if merged.anything else None)
