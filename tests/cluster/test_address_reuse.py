"""An address that goes from pod to pod under traffic, of which the API server's news comes late:
nothing is ever credited to a pod that did not have it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from retina_otel.testing.cluster import ControlPlane
from retina_otel.testing.lab import Lab
from retina_otel.testing.otlp_data import ReceivedPoint
from tests.cluster.lab_agent import LabAgent, books
from tests.cluster.reuse import (
    NAMESPACE,
    NOBODYS,
    OWNED,
    STEADY,
    Elsewhere,
    Here,
    Kubelet,
    Place,
    Talk,
    Turns,
)
from tests.cluster.test_identity import RIGHTS
from tests.cluster.way import Way
from tests.netns.cgroups_in_lab import hierarchy

TURNS = 200
LATE_S = 5.0
SETTLE_S = 8
"""As late as the watch may be, and what kubelet, API server and a busy machine may add."""
BASES = {"here": 4000, "far": 4100}
"""The peer's ports."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("reuse/peer", masquerade=False) as made:
        yield made


@pytest.fixture
def api(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.kubectl("create", "namespace", NAMESPACE)
    control_plane.apply('{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}')
    yield control_plane
    control_plane.kubectl("delete", "node", "node-1")
    control_plane.kubectl("delete", "pod", "--all", "-n", NAMESPACE, "--force", "--wait=false")


Credited = Counter[tuple[str, str, int, str]]
"""Packets by interface, direction, the port that tells whose they are, and whose we said."""


def credited(points: list[ReceivedPoint], place: Place) -> Credited:
    found: Credited = Counter()
    for one in points:
        said = one.attributes
        if one.metric != "retina.flow.packets" or said["network.transport"] != "udp":
            continue
        for end in ("source", "destination"):
            if said[f"{end}.address"] in place.addresses:
                found[
                    said["network.interface.name"],
                    said["network.interface.direction"],
                    said[f"{end}.port"],
                    said.get(f"{end}.k8s.pod.name", ""),
                ] += one.value
    return found


def judge(found: Credited, talk: Talk, prefix: str) -> Counter[str]:
    """Fails if what the peer's interface saw, where only address and time tell, is credited to
    another, or is not all there. How many packets are known, and not."""
    totals: Counter[tuple[str, int]] = Counter()
    shares: Counter[str] = Counter()
    for (interface, direction, port, name), count in found.items():
        if interface != "veth-peer":
            continue
        totals[direction, port] += count
        shares["known" if name else "unknown"] += count
        if port != STEADY:
            assert name in ("", *owners(port, prefix)), f"{count} packets to {port} went to {name}"
        elif name:
            assert count <= talk.truth.owned[int(name.rpartition("-")[2])], name
    assert totals == sent(talk)
    return shares


def sent(talk: Talk) -> Counter[tuple[str, int]]:
    """Packets by direction and port, as the peer has counted them."""
    owned, nobodys = talk.truth.owned, talk.truth.nobodys
    both = ("egress", "ingress")
    return Counter(
        {(way, OWNED + number): count for way in both for number, count in owned.items()}
        | {("egress", NOBODYS + number): count for number, count in nobodys.items()}
        | {(way, STEADY): owned.total() for way in both}
    )


def owners(port: int, prefix: str) -> tuple[str, ...]:
    """The pods that packets with this port may be credited to."""
    if port >= NOBODYS:
        number = port - NOBODYS
        return f"{prefix}-{number}", f"{prefix}-{number - 1}"
    return (f"{prefix}-{port - OWNED}",)


def at_their_own_interfaces(points: list[ReceivedPoint]) -> Counter[str]:
    """Packets by pod, of all that was counted at the interfaces of pods of the address."""
    found: Counter[str] = Counter()
    for one in points:
        interface = str(one.attributes.get("network.interface.name", ""))
        if one.metric == "retina.flow.packets" and interface.startswith("veth-here"):
            egress = one.attributes["network.interface.direction"] == "egress"
            end = "source" if egress else "destination"
            assert one.attributes[f"{end}.k8s.pod.name"] == interface.removeprefix("veth-")
            found[interface.removeprefix("veth-")] += one.value
    return found


@pytest.mark.timeout(600)
def test_two_hundred_pods_in_turn_have_only_what_was_theirs(
    api: ControlPlane, lab: Lab, tmp_path: Path
) -> None:
    kubeconfig = api.kubeconfig_for("agent", RIGHTS)
    with (
        hierarchy(2) as groups,
        Way(lab.node, api, seed=7) as way,
        Kubelet(api) as kubelet,
    ):
        taken = way.kubeconfig(kubeconfig, tmp_path / "kubeconfig")
        watching = LabAgent(lab, tmp_path, taken, settle_s=SETTLE_S)
        watching.start()
        here = Here(lab, groups, "here", watching.wait_until_bound)
        places: dict[str, Place] = {"here": here, "far": Elsewhere(lab)}
        talks = {n: Talk(lab.pod("peer"), p.addresses, BASES[n]) for n, p in places.items()}
        try:
            way.late_s = LATE_S
            failures: list[BaseException] = []

            def take_turns(name: str) -> None:
                try:
                    with talks[name] as talk:
                        Turns(places[name], talk, kubelet, name).take(TURNS)
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=take_turns, args=(name,)) for name in places]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failures == []

            way.late_s = 0
            watching.wait_until_settled()
        finally:
            points = watching.stop()
    for name, place in places.items():
        shares = judge(credited(points, place), talks[name], name)
        print(name, shares, kubelet.slowest_s)
    own = at_their_own_interfaces(points)
    before_attach = books(points, "beside", reason="before_attach")
    ambiguous = books(points, "beside", reason="ambiguous_ends")
    print(here.passed - own, before_attach, ambiguous, books(points, "beside", reason="unsettled"))
    assert own <= here.passed
    assert (here.passed - own).total() == before_attach["receiver/flows"]
    assert set(books(points, "difference").values()) == {0}
    assert ambiguous["pipeline/metrics"] > 0
