"""An address that goes from pod to pod under traffic, of which the API server's news comes late:
nothing is ever credited to a pod that did not have it."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from retina_otel.extensions.kubernetes.settings import KubernetesSettings
from retina_otel.testing.cluster import Cluster, ControlPlane
from retina_otel.testing.lab import Lab
from retina_otel.testing.namespaces import Namespace
from retina_otel.testing.otlp_data import ReceivedPoint
from tests.cluster.lab_agent import LabAgent, books
from tests.cluster.reuse import (
    NAMESPACE,
    NOBODYS,
    OWNED,
    STEADY,
    Elsewhere,
    Here,
    Inside,
    Kubelet,
    Place,
    Talk,
    Turns,
    answering,
)
from tests.cluster.test_identity import RIGHTS
from tests.cluster.way import Way
from tests.netns.cgroups_in_lab import hierarchy

TURNS = 200
LATE_S = 5.0
SETTLE_S = int(KubernetesSettings().settle)
"""As users have it: `LATE_S`, and 3 s for kubelet, API server and a busy machine."""
STOPS = 8
"""It is a race: without a wait, the agent was wrong after some of them, not after each."""
BASES = {"here": 4000, "far": 4100}
"""The peer's ports."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("reuse/peer", masquerade=False) as made:
        yield made


@pytest.fixture
def api(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.apply(
        f'{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{NAMESPACE}"}}}}'
    )
    control_plane.apply('{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}')
    yield control_plane
    control_plane.kubectl("delete", "node", "node-1")
    control_plane.kubectl("delete", "pod", "--all", "-n", NAMESPACE, "--force", "--wait=false")


Credited = Counter[tuple[bool, str, int, str]]
"""Packets by whether the peer's interface saw them, direction, the port that tells whose they are,
and whose we said."""


def credited(
    points: list[ReceivedPoint], given: Collection[str], peers: Collection[str]
) -> Credited:
    """Of the addresses `given` to pod after pod."""
    found: Credited = Counter()
    for one in points:
        said = one.attributes
        if one.metric != "retina.flow.packets" or said["network.transport"] != "udp":
            continue
        way = said["network.interface.direction"]
        near = said["source.address" if way == "egress" else "destination.address"]
        for end in ("source", "destination"):
            if said[f"{end}.address"] in given:
                name = said.get(f"{end}.k8s.pod.name", "")
                found[near in peers, way, said[f"{end}.port"], name] += one.value
    return found


def judge(found: Credited, talk: Talk, prefix: str, *, late_s: float = 0.0) -> Counter[str]:
    """Fails if what the peer's interface saw, where only address and time tell, is credited to
    another, or is not all there. How many packets are known, and not. `late_s`: how late news was
    at most, to be said with what is wrong."""
    totals: Counter[tuple[str, int]] = Counter()
    shares: Counter[str] = Counter()
    wrong = []
    for (at_peer, direction, port, name), count in found.items():
        if not at_peer:
            continue
        totals[direction, port] += count
        shares["known" if name else "unknown"] += count
        if port != STEADY:
            if name not in ("", *owners(port, prefix)):
                wrong.append(f"{count} packets ({direction}) with port {port} went to {name}")
        elif name and count > talk.truth.owned[int(name.rpartition("-")[2])]:
            wrong.append(f"{count} packets ({direction}), more than there were, went to {name}")
    assert not wrong, f"{wrong}; news came up to {late_s:.2f} s late, and {SETTLE_S} s are waited"
    least, most = sent(talk)
    assert least <= totals <= most
    return shares


def sent(talk: Talk) -> tuple[Counter[tuple[str, int]], Counter[tuple[str, int]]]:
    """Packets by direction and port, at least and at most: what nobody answered may not have been
    answered, or the answer was dropped; what nobody was there for may not even have left."""
    truth = talk.truth
    said = Counter({("egress", OWNED + number): n for number, n in truth.owned.items()})
    said["egress", STEADY] = truth.owned.total()
    nobodys = Counter({("egress", NOBODYS + number): n for number, n in truth.nobodys.items()})
    answers = Counter({("ingress", OWNED + number): n for number, n in truth.answered.items()})
    answers["ingress", STEADY] = truth.steady
    possible = Counter({("ingress", port): n for (_, port), n in said.items()})
    return said + answers, said + possible + nobodys


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
            pod = interface.removeprefix("veth-")
            # Where it is not known in time who lives there, it stays so.
            assert one.attributes.get(f"{end}.k8s.pod.name", pod) == pod
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
        watching = LabAgent(lab.node, tmp_path, taken, settle_s=SETTLE_S)
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
        peer = lab.pod("peer")
        found = credited(points, place.addresses, (peer.ipv4, peer.ipv6))
        shares = judge(found, talks[name], name, late_s=way.latest_s + kubelet.slowest_s)
        print(name, shares)
        assert shares["known"] > 0
    own = at_their_own_interfaces(points)
    before_attach = books(points, "beside", reason="before_attach")
    ambiguous = books(points, "beside", reason="ambiguous_ends")
    print(here.passed - own, before_attach, ambiguous, books(points, "beside", reason="unsettled"))
    # Less what a wire carried before it was attached. The agent tells that (before_attach) of wires
    # that are still there at the next tick, which most of these are not: no equality here.
    assert own <= here.passed
    assert set(books(points, "difference").values()) == {0}
    assert ambiguous["pipeline/metrics"] > 0


@pytest.mark.timeout(120)
def test_an_agent_that_was_kept_from_running_hears_first(
    api: ControlPlane, lab: Lab, tmp_path: Path
) -> None:
    """News waits where the agent would read it: time alone does not tell that none came."""
    far, peer = Elsewhere(lab), lab.pod("peer")
    kubeconfig = api.kubeconfig_for("agent", RIGHTS)
    talk = Talk(peer, far.addresses, BASES["far"])

    def say(pod: Namespace, phase: int) -> None:
        with answering(pod, far.addresses, phase):
            talk.set_owner(phase)
            time.sleep(0.5)
            talk.set_owner(None)

    with Way(lab.node, api) as way, Kubelet(api) as kubelet:
        taken = way.kubeconfig(kubeconfig, tmp_path / "kubeconfig")
        watching = LabAgent(lab.node, tmp_path, taken, settle_s=2)
        watching.start()
        process = watching.agent.process
        try:
            with talk:
                for number in range(STOPS):
                    name = f"far-{number}"
                    pod = far.plug(number, kubelet.make(name, far.node))
                    kubelet.runs(name, far.addresses, time.time())
                    if number:
                        kubelet.is_gone(f"far-{number - 1}")
                    # Its start is told in whole seconds: the first may have been another's.
                    time.sleep(1)
                    say(pod, 2 * number)
                    # All of that is settled when the agent goes on, and none of it is heard.
                    time.sleep(2.3)
                    process.send_signal(signal.SIGCONT)
                    watching.wait_until_whose(far.addresses[0], name)
                    say(pod, 2 * number + 1)
                    process.send_signal(signal.SIGSTOP)
                    far.unplug()
                    time.sleep(1 - time.time() % 1)
            process.send_signal(signal.SIGCONT)
            watching.wait_until_settled()
        finally:
            process.send_signal(signal.SIGCONT)
            points = watching.stop()
    found = credited(points, far.addresses, (peer.ipv4, peer.ipv6))
    truth = talk.truth
    for phase in range(2 * STOPS):
        for way, count in (("egress", truth.owned[phase]), ("ingress", truth.answered[phase])):
            said = {key[3]: n for key, n in found.items() if key[1:3] == (way, OWNED + phase)}
            assert said == {f"far-{phase // 2}": count}, (way, phase)
    assert set(books(points, "difference").values()) == {0}


POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  terminationGracePeriodSeconds: {grace}
  containers:
    - name: a
      image: localhost/busybox:1
      imagePullPolicy: Never
      command: [sh, -c, "trap exit TERM; sleep infinity & wait"]
"""
NAMESPACES = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: peers}}
"""


@pytest.fixture
def pinned(cluster: Cluster) -> Iterator[Cluster]:
    cluster.apply(NAMESPACES)
    cluster.node.pin_addresses(NAMESPACE, range(200, 201))
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "peers", "--wait=false")


def run_pod(cluster: Cluster, namespace: str, name: str, grace_s: int = 1) -> Any:
    """A pod with addresses, that runs."""
    cluster.apply(POD.format(name=name, namespace=namespace, grace=grace_s))

    def runs() -> Any:
        pod: Any = cluster.core().read_namespaced_pod(name, namespace)
        return pod if pod.status.phase == "Running" and pod.status.pod_ips else None

    return cluster.wait_for(runs, what=f"pod {name}")


@pytest.mark.timeout(300)
def test_kubelets_pods_in_turn_have_only_what_was_theirs(pinned: Cluster, tmp_path: Path) -> None:
    """As before, with all that a real kubelet does and says, when it does."""
    kubeconfig = pinned.kubeconfig_for("agent", RIGHTS, inner=True)
    watching = LabAgent(pinned.node, tmp_path, kubeconfig, settle_s=SETTLE_S)
    watching.start()
    try:
        peer = run_pod(pinned, "peers", "peer")
        four, six = pinned.node.addresses.pod_address(200)
        inside = Inside(pinned, peer)
        with Talk(inside, (four, six), BASES["here"]) as talk:
            for number in range(5):
                name = f"here-{number}"
                pod = run_pod(pinned, NAMESPACE, name, grace_s=number)
                assert [one.ip for one in pod.status.pod_ips] == [four, six]
                with answering(Inside(pinned, pod), (four, six), number):
                    # The pod before had another hardware address.
                    inside.run(["ip", "neigh", "flush", "dev", "eth0"])
                    talk.set_owner(number)
                    time.sleep(2)
                    pinned.kubectl("delete", "pod", name, "-n", NAMESPACE, "--wait=false")
                    talk.set_owner(None)
        watching.wait_until_settled()
    finally:
        points = watching.stop()
    found = credited(points, (four, six), [one.ip for one in peer.status.pod_ips])
    shares = judge(found, talk, "here")
    print(shares)
    assert shares["known"] > 0
    own = {(way, port, name): n for (at, way, port, name), n in found.items() if not at}
    for number, count in talk.truth.owned.items():
        assert count == talk.truth.answered[number], "nothing was dropped"
        for way in ("egress", "ingress"):
            said = {key[2]: n for key, n in own.items() if key[:2] == (way, OWNED + number)}
            assert said == {f"here-{number}": count}, "told by its interface"
    assert set(books(points, "difference").values()) == {0}
