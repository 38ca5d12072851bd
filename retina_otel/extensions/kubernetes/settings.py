"""Settings of the `kubernetes` extension."""

from __future__ import annotations

import ipaddress
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from retina_otel.component import Duration, PositiveDuration, Settings
from retina_otel.pipeline.identity.selection import View


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


MOST_SETTLE_S = 60.0
"""What waits carries row numbers, and its addresses are asked about: the EndpointTable remembers
both for 120 s, in which the last word of a pod may be as late as this too."""

Network = Annotated[str, AfterValidator(_network)]


class ServiceSettings(Settings):
    """The cluster's identity service, which watches the API server for all agents."""

    endpoint: str
    """Its address and port, or `unix:` and a path."""
    token_file: str = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    """Who we are: read anew for each connection. Empty: no token."""
    ca_file: str = ""
    """Whom we trust; empty: the system's CAs."""
    cert_file: str = ""
    """Our certificate, for mTLS; empty: none."""
    key_file: str = ""
    """Its key."""
    server_name: str = ""
    """The name in the service's certificate, where it is not that of `endpoint`."""
    insecure: bool = False
    """No TLS. Only on this machine: a token must not be sent unencrypted."""
    fall_back: bool = True
    """Watch the API server while the service is away. If not, it is never asked for anything: no
    kubeconfig and no right is needed, and while the service is away what was known stays."""
    fall_back_after: PositiveDuration = Field(default="30s", validate_default=True)
    """The API server is watched while the service is away for longer than this, or up to twice as
    long: agents do not move together. They go back when it has been there for as long again twice,
    or up to four times."""


class PodsFrom(Enum):
    """What tells of the pods of other nodes."""

    PODS = "pods"
    RETINA_ENDPOINTS = "retina_endpoints"


class KubernetesSettings(Settings):
    """Tells who is who by the Kubernetes API."""

    context: View = View.REMOTE
    """How much is told of ends. `remote`: both, for which all pods of the cluster are watched.
    `local`: the pod of this node alone; only its own pods are watched. `node`: no pods at all.
    They are what Retina calls advanced with remote context, with local context, and basic."""
    pods_from: PodsFrom = PodsFrom.PODS
    """In `remote`, what tells of the pods of other nodes: `pods`, or the smaller `retina_endpoints`
    that Retina's operator keeps where it runs. These know neither the pod's UID nor its times, so
    less is certain of an address that changes hands, and are as right as the operator keeps them.
    Pods of this node are read as pods either way."""
    kubeconfig: Path | None = None
    """Instead of the ServiceAccount of the agent's pod."""
    kubeconfig_context: str | None = None
    """Its context; none: the current one."""
    node_name: str = ""
    """The node on which the agent runs; empty: K8S_NODE_NAME or NODE_NAME of the environment."""
    labels: tuple[str, ...] = ()
    """Keys of labels of pods, to be had as `k8s.pod.label.<key>`."""
    annotations: tuple[str, ...] = ()
    """Keys of annotations of pods, to be had as `k8s.pod.annotation.<key>`."""
    cidrs: dict[str, Network] = Field(default_factory=dict)
    """Networks by name: what is in one, and is nothing better known, has the attribute `cidr`."""
    settle: Duration = Field(default="8s", validate_default=True)
    """How late it may become known who has an address. In `remote`, what was counted lately waits
    so long before it is credited to whoever had its address. At most 1m."""
    observe_annotated: bool = False
    """Only pods are observed that have the annotation `retina.sh: observe`, or whose namespace has
    it (Retina's enableAnnotations), and those that a MetricsConfiguration names."""
    service: ServiceSettings | None = None
    """Ask the identity service, and the API server only while that is away."""

    @model_validator(mode="after")
    def _pods_of_other_nodes(self) -> KubernetesSettings:
        if self.pods_from is PodsFrom.RETINA_ENDPOINTS:
            if self.context is not View.REMOTE:
                raise ValueError("leave pods_from out: only `context: remote` asks for other nodes")
            if self.service is not None:
                raise ValueError("leave pods_from out: the identity service tells of all pods")
        return self

    @model_validator(mode="after")
    def _settles_in_time(self) -> KubernetesSettings:
        if self.settle > MOST_SETTLE_S:
            raise ValueError("settle must be at most 1m: who had an address is forgotten after 2m")
        return self

    @model_validator(mode="after")
    def _keys(self) -> KubernetesSettings:
        for key in (*self.labels, *self.annotations):
            if not key or len(key) > 317:
                raise ValueError(f"'{key}' is no key of a label or annotation")
        return self
