"""The agent on a real node in the views that tell less than both ends: whose a packet was here, or
that it was this node's, and nothing at all of who was at its other end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from retina_otel.testing.cluster import Cluster
from tests.cluster.test_identity import (
    Watched,
    expected_of,
    kubeconfig,
    pods_of,
    said_of,
    wait_until_told,
    watched,
    world,
)

__all__ = ["kubeconfig", "world"]

PINGS = 7
ENDS = {"ingress": ("destination", "source"), "egress": ("source", "destination")}
"""By direction at the interface of a pod: the end that is here, and the other."""
Told = frozenset[tuple[str, str]]


def echoes(agent: Watched, addresses: set[str]) -> Counter[tuple[str, Told, Told]]:
    """Packets at the interfaces of pods with these addresses, by direction and by what is said of
    the end here, without its address, and of the other."""
    found: Counter[tuple[str, Told, Told]] = Counter()
    for one in agent.flows():
        if one.labels["network_transport"] == "icmp":
            way = one.labels["network_interface_direction"]
            here, other = (said_of(one, end) for end in ENDS[way])
            if here.pop("address") in addresses:
                found[way, frozenset(here.items()), frozenset(other.items())] += int(one.value)
    return found


@pytest.mark.parametrize("view", ["local", "node"])
def test_only_the_end_that_is_here_is_told(
    world: Cluster, kubeconfig: Path, tmp_path: Path, view: str
) -> None:
    pods = pods_of(world, "who")
    server = next(pod for name, pod in pods.items() if name.startswith("server"))
    addresses = {pod.status.pod_ip for pod in (server, pods["client-0"])}
    if view == "local":
        ends = [
            expected_of(pods["client-0"], ("client", "statefulset")),
            expected_of(server, ("server", "deployment")),
        ]
    else:
        node = {
            "k8s_node_name": world.node.name,
            "k8s_node_uid": world.core().read_node(world.node.name).metadata.uid,
            "k8s_resource_type": "node",
            "cloud_availability_zone": "lab-1a",
            "cloud_region": "lab-1",
        }
        ends = [node, node]
    wanted: Counter[tuple[str, Told, Told]] = Counter()
    for end in ends:
        for way in ENDS:
            wanted[way, frozenset(end.items()), frozenset()] += PINGS
    with watched(world, tmp_path, kubeconfig, context=view) as agent:
        agent.wait_until_all_is_well()
        world.exec("who/client-0", ["ping", "-q", "-c", str(PINGS), server.status.pod_ip])
        wait_until_told(lambda: echoes(agent, addresses) == wanted, f"{wanted}")
