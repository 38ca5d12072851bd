"""Who the agent is: the attributes on everything it sends.

`service.instance.id` is made from the node, not from the process or the pod, so that a rollout of
the agent renames no series. `service.name` is never forced over what OTEL_* variables say.
"""

from __future__ import annotations

import os
import platform
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from retina_otel import __version__

SERVICE_NAME = "retina-otel"
_NAMESPACE = uuid.UUID("6f9b2a4e-1f0d-5c55-9b3a-0c8a7c3d51e7")
_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm32", "ppc64le": "ppc64"}
_FROM_ENVIRONMENT = {
    "k8s.node.name": ("K8S_NODE_NAME", "NODE_NAME"),
    "k8s.node.uid": ("K8S_NODE_UID",),
    "k8s.cluster.name": ("K8S_CLUSTER_NAME",),
    "k8s.cluster.uid": ("K8S_CLUSTER_UID",),
}

Resource = dict[str, str | int | bool]


def detect(
    environment: Mapping[str, str],
    configured: Mapping[str, str | int | bool] | None = None,
    *,
    learned: Mapping[str, str | int | bool] | None = None,
    identifying: bool = True,
    root: Path = Path("/"),
) -> Resource:
    """What is found on this machine < what extensions have learned < OTEL_RESOURCE_ATTRIBUTES <
    OTEL_SERVICE_NAME < configured.

    `identifying` of False: what was learned came too late to make `service.instance.id` of it.
    """
    resource: Resource = {
        "service.name": SERVICE_NAME,
        "service.version": __version__,
        "host.name": socket.gethostname(),
        "host.arch": _ARCH.get(platform.machine(), platform.machine()),
        "os.type": platform.system().lower(),
        "telemetry.distro.name": SERVICE_NAME,
        "telemetry.distro.version": __version__,
    }
    if host_id := _first_line(root / "etc/machine-id"):
        resource["host.id"] = host_id
    for key, names in _FROM_ENVIRONMENT.items():
        if value := next((environment[name] for name in names if environment.get(name)), ""):
            resource[key] = value
    late = {key: value for key, value in (learned or {}).items() if not resource.get(key)}
    if identifying:
        resource.update(late)
    resource.update(parse_attributes(environment.get("OTEL_RESOURCE_ATTRIBUTES", "")))
    if name := environment.get("OTEL_SERVICE_NAME"):
        resource["service.name"] = name
    resource.update(configured or {})
    if "service.instance.id" not in resource:
        node = (
            resource.get("k8s.node.uid")
            or resource.get("k8s.node.name")
            or resource.get("host.id")
            or resource["host.name"]
        )
        key = f"{node}/{resource['service.name']}"
        resource["service.instance.id"] = str(uuid.uuid5(_NAMESPACE, key))
    return late | resource


def parse_attributes(text: str) -> dict[str, str]:
    """`key=value,key2=value2`, percent-encoded, as OTEL_* variables have it; junk is left out."""
    attributes = {}
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        if equals and key.strip():
            attributes[key.strip()] = unquote(value.strip())
    return attributes


def disabled(environment: Mapping[str, str]) -> bool:
    """OTEL_SDK_DISABLED silences everything, the data of the pipelines included."""
    return environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def own_usage() -> tuple[float, float, int]:
    """CPU seconds in user and system mode, and resident bytes, of this process."""
    times = os.times()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        pages = 0
    return times.user, times.system, pages * os.sysconf("SC_PAGE_SIZE")


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip().partition("\n")[0]
    except OSError:
        return ""
