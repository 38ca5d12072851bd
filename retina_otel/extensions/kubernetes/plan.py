"""What is watched, by how much is to be told, and what it costs not to be allowed to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from retina_otel.kubernetes.api.decode import Wanted
from retina_otel.kubernetes.api.resources import RETINA_ENDPOINTS, Resource
from retina_otel.kubernetes.cloud import NODE_LABELS
from retina_otel.kubernetes.metrics_configuration.observed import ANNOTATION
from retina_otel.kubernetes.objects import Kind
from retina_otel.pipeline.identity.selection import View


@dataclass(frozen=True, slots=True)
class Watched:
    """One kind of objects."""

    kind: Kind
    without: str
    """What is not known without it, in a few words."""
    selector: str = ""
    """A field selector."""
    wanted: Wanted = field(default_factory=Wanted)
    resource: Resource | None = None
    """Where it is, if not every cluster has it."""


_OWNERS = (Kind.REPLICA_SET, Kind.JOB, Kind.OWNER)
TOLD_BY_SERVICE: Mapping[View, tuple[Kind, ...]] = {
    View.REMOTE: _OWNERS,
    View.LOCAL: _OWNERS,
    View.NODE: (),
}
"""What the identity service tells beside the plan: else it is read one by one."""


def plan(
    view: View,
    node: str,
    *,
    labels: tuple[str, ...] = (),
    annotations: tuple[str, ...] = (),
    observe_annotated: bool = False,
    retina_endpoints: bool = False,
) -> Iterator[Watched]:
    """Each kind once. `node` may be empty only for View.REMOTE. `retina_endpoints`: they stand for
    the pods of other nodes."""
    mark = (ANNOTATION,) if observe_annotated else ()
    nodes = Wanted(label_keys=NODE_LABELS)
    if view is View.REMOTE:
        without = "other nodes and the zones of pods"
        if retina_endpoints:
            without = "other nodes, their pods and zones"
        yield Watched(Kind.NODE, without, wanted=nodes)
    elif node:
        yield Watched(Kind.NODE, "this node's zone", f"metadata.name={node}", nodes)
    if view is View.NODE:
        return
    if mark:
        yield Watched(
            Kind.NAMESPACE,
            "which namespaces are annotated",
            wanted=Wanted(annotation_keys=frozenset(mark)),
        )
    yield Watched(
        Kind.POD,
        "pods of this node" if retina_endpoints else "pods",
        "" if view is View.REMOTE and not retina_endpoints else f"spec.nodeName={node}",
        Wanted(frozenset(labels), frozenset((*annotations, *mark)), containers_of_node=node),
    )
    yield Watched(Kind.METRICS_CONFIGURATION, "MetricsConfigurations")
    if view is View.LOCAL:
        return
    if retina_endpoints:
        yield Watched(
            Kind.RETINA_ENDPOINT,
            "pods of other nodes",
            wanted=Wanted(frozenset(labels), frozenset(annotations)),
            resource=RETINA_ENDPOINTS,
        )
    yield Watched(Kind.REPLICA_SET, "the Deployments of pods")
    yield Watched(Kind.JOB, "the CronJobs of pods")
    yield Watched(Kind.SERVICE, "services")
    yield Watched(
        Kind.ENDPOINT_SLICE,
        "the API server's own addresses",
        "metadata.namespace=default,metadata.name=kubernetes",
    )
