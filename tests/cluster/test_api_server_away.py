"""The API server goes away, forgets, and comes back as another or in an older state, while pods
talk: the agent goes on, counts every packet, and names nobody who is no more."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from retina_otel.kubernetes.api.watch import Timing
from retina_otel.testing.cluster import ControlPlane
from retina_otel.testing.lab import Lab
from retina_otel.testing.namespaces import Namespace
from retina_otel.testing.otlp_data import ReceivedPoint
from tests.cluster.lab_agent import NODE, LabAgent, books
from tests.cluster.reuse import NAMESPACE, OWNED, STEADY, Elsewhere, Kubelet, Talk, answering
from tests.cluster.way import Way
from tests.e2e.agent import wait_until
from tests.netns.cgroups_in_lab import Hierarchy, cgroupfs, hierarchy, new_container_id, start

AWAY_S = 60
TALK_S = 1.5
WATCHES = 12
"""As many as there may be: one of each kind, and who asks for the cluster and the node."""


class World:
    """A pod on the agent's node, `web`, that talks with whoever has an address elsewhere."""

    def __init__(
        self, api: ControlPlane, lab: Lab, way: Way, groups: Hierarchy, folder: Path
    ) -> None:
        self.api = api
        self.lab = lab
        self.way = way
        self.elsewhere = Elsewhere(lab)
        self.address = self.elsewhere.addresses[0]
        self.kubelet = Kubelet(api)
        self.groups = groups
        # Rights would go with a wiped store.
        admin = way.kubeconfig(api.kubeconfig, folder / "kubeconfig")
        self.agent = LabAgent(lab.node, folder, admin, settle_s=2)
        self.talk = Talk(lab.pod("web"), self.elsewhere.addresses, 4000)
        self.expected: dict[int, tuple[str, str]] = {}
        """By phase: the names that web and whoever it talks with must have; "?" is any that it had
        or none."""
        self._far: Namespace | None = None

    def make_world(self) -> None:
        """What the API server must have, of a new store too."""
        self.api.wait_for(lambda: self.api.core().list_namespace(), what="answer")
        self.api.apply(
            f'{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{NAMESPACE}"}}}}'
        )
        self.api.apply(f'{{"apiVersion": "v1", "kind": "Node", "metadata": {{"name": "{NODE}"}}}}')

    def run_web(self) -> None:
        web = self.lab.pod("web")
        uid = self.kubelet.make("web", NODE)
        start(web, self.groups.make(cgroupfs(uid, new_container_id())))
        self.kubelet.runs("web", [web.ipv4, web.ipv6], time.time())
        self.agent.wait_until_bound(f"{NAMESPACE}/web", web.host_ifindex)

    def run_far(self, name: str) -> None:
        """A pod elsewhere, of which the agent has heard when this returns."""
        if self._far is None:
            self._far = self.elsewhere.plug(0, "")
        self.kubelet.make(name, self.elsewhere.node)
        # The API rounds times down: what was said before, in the same second, may be the pod's.
        time.sleep(1 - time.time() % 1)
        self.kubelet.runs(name, self.elsewhere.addresses, time.time())
        self.agent.wait_until_whose(self.address, name)

    def end_far(self) -> None:
        """Nothing of it stays."""
        if self._far is not None:
            self.elsewhere.unplug()

    def say(self, web: str, far: str, while_: object = None) -> None:
        """Talks for a while, under a port of its own; both are to have these names."""
        phase = len(self.expected)
        self.expected[phase] = (web, far)
        # Stamps of packets are as coarse as the kernel's ticks.
        time.sleep(0.1)
        assert self._far is not None
        with answering(self._far, self.elsewhere.addresses, phase):
            self.talk.set_owner(phase)
            if callable(while_):
                while_()
            else:
                time.sleep(TALK_S)
            self.talk.set_owner(None)

    def judge(self, points: list[ReceivedPoint]) -> None:
        found: Counter[tuple[str, int, str, str]] = Counter()
        totals: Counter[tuple[str, int]] = Counter()
        for one in points:
            said = one.attributes
            if one.metric != "retina.flow.packets" or said["network.transport"] != "udp":
                continue
            web, far = (
                ("source", "destination")
                if said["network.interface.direction"] == "egress"
                else ("destination", "source")
            )
            assert said["network.interface.name"] == "veth-web"
            port, way = said[f"{far}.port"], said["network.interface.direction"]
            names = said.get(f"{web}.k8s.pod.name", ""), said.get(f"{far}.k8s.pod.name", "")
            totals[way, port] += one.value
            if OWNED <= port < OWNED + len(self.expected):
                found[way, port - OWNED, *names] += one.value
        owned = self.talk.truth.owned
        assert owned == self.talk.truth.answered, "nothing was dropped"
        for way in ("egress", "ingress"):
            assert totals[way, STEADY] == owned.total()
            for phase, names in self.expected.items():
                assert totals[way, OWNED + phase] == owned[phase] > 0
                said = {key[2:]: n for key, n in found.items() if key[:2] == (way, phase)}
                if "?" in names:
                    continue
                assert said == {names: owned[phase]}, (phase, way)
        assert set(books(points, "difference").values()) == {0}


@pytest.fixture
def world(control_plane: ControlPlane, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab("reuse/web", masquerade=False))
        groups = stack.enter_context(hierarchy(2))
        stack.callback(lambda: lab.pod("web").stop_processes())
        way = stack.enter_context(Way(lab.node, control_plane))
        made = World(control_plane, lab, way, groups, tmp_path)
        made.make_world()
        stack.enter_context(made.kubelet)
        stack.callback(
            lambda: control_plane.kubectl(
                *("delete", "pod", "--all", "-n", NAMESPACE, "--force", "--wait=false")
            )
        )
        made.agent.start()
        try:
            made.run_web()
            made.run_far("far-0")
            with made.talk:
                made.say("web", "far-0")
                yield made
            made.agent.wait_until_settled()
        finally:
            points = made.agent.stop()
            made.end_far()
        made.judge(points)


def most_attempts(seconds: float) -> int:
    """Of one watch that is refused each time: each wait is at least half of one that doubles."""
    timing = Timing()
    waits = (0.5 * min(timing.retry_first_s * 2**n, timing.retry_most_s) for n in itertools.count())
    return next(n for n, at in enumerate(itertools.accumulate(waits), 2) if at > seconds)


@pytest.mark.timeout(240)
def test_what_was_known_stays_known_while_the_api_server_is_away(world: World) -> None:
    asked: list[float] = []

    def away() -> None:
        world.api.stop_api_server(kill=True)
        try:
            since = time.monotonic()
            time.sleep(AWAY_S)
            until = time.monotonic()
            asked.extend(at for at in world.way.arrivals if since < at < until)
            most = WATCHES * most_attempts(until - since)
            assert world.agent.extension()["state"] == "degraded"
        finally:
            world.api.start_api_server()
        assert 0 < len(asked) <= most

    world.say("web", "far-0", away)
    world.agent.wait_until_well()
    world.say("web", "far-0")
    world.kubelet.is_gone("far-0")
    world.agent.wait_until_whose(world.address)
    world.say("web", "")
    world.run_far("far-1")
    world.say("web", "far-1")


def test_what_changed_before_history_was_lost_is_learned(world: World) -> None:
    with world.way.closed():
        world.kubelet.is_gone("far-0")
        world.kubelet.wait()
        world.api.compact()
    world.agent.wait_until_whose(world.address)
    world.say("web", "")
    world.run_far("far-1")
    world.say("web", "far-1")


def test_nobody_of_a_wiped_store_has_a_name(world: World) -> None:
    world.say("?", "?", world.api.wipe_store)
    world.agent.wait_until_whose(world.address)
    wait_until(lambda: world.agent.knows(f"{NAMESPACE}/web") == [], "the end of web")
    world.make_world()
    world.run_far("far-1")
    world.say("?", "far-1")


def test_nobody_who_is_not_in_an_older_store_has_a_name(world: World, tmp_path: Path) -> None:
    older = tmp_path / "older"
    world.say("web", "far-0", lambda: world.api.save_store(older))
    world.agent.wait_until_well()
    world.kubelet.is_gone("far-0")
    world.agent.wait_until_whose(world.address)
    world.run_far("far-1")
    world.say("web", "far-1")
    world.say("web", "?", lambda: world.api.restore_store(older))
    # The store has far-0 again, and has never heard of far-1.
    world.agent.wait_until_whose(world.address, "far-0")
    world.kubelet.is_gone("far-0")
    world.agent.wait_until_whose(world.address)
    world.say("web", "")
    world.run_far("far-2")
    world.say("web", "far-2")
