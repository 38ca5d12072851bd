"""Whose a network namespace is: real processes in it, in cgroups named as those of pods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from retina_otel.kernel.net.rtnetlink import InterfaceMonitor
from retina_otel.model.interfaces import Interface
from retina_otel.node.looks import Looks
from retina_otel.node.namespaces import NodeNamespaces
from retina_otel.testing.lab import Lab
from retina_otel.testing.namespaces import Namespace
from tests.netns import cgroups_in_lab as cgroups


@pytest.fixture
def looks() -> Iterator[Looks]:
    made = Looks()
    yield made
    made.close()


@pytest.fixture
def namespaces(lab: Lab, looks: Looks) -> NodeNamespaces:
    return NodeNamespaces(looks, dict)


def refreshed(lab: Lab, namespaces: NodeNamespaces) -> bool:
    return lab.node.call(namespaces.refresh)


@pytest.mark.kernels
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "layout",
    [
        cgroups.cgroupfs,
        cgroups.systemd,
        lambda uid, container: cgroups.systemd(uid, container, "crio"),
        lambda uid, container: cgroups.systemd(uid, container, "docker"),
    ],
    ids=["cgroupfs", "containerd", "crio", "docker"],
)
def test_a_namespace_belongs_to_the_pod_whose_processes_run_in_it(lab, namespaces, version, layout):
    uids = {"web": cgroups.new_uid(), "api": cgroups.new_uid()}
    containers = {"web": cgroups.new_container_id(), "api": cgroups.new_container_id()}
    with cgroups.hierarchy(version) as hierarchy:
        for name, uid in uids.items():
            group = hierarchy.make(layout(uid, containers[name]))
            cgroups.start(lab.pod(name), group)

        assert refreshed(lab, namespaces)
        known = namespaces.current()

        for name, uid in uids.items():
            assert known[lab.pod(name).inode].workloads == {uid, containers[name]}
            assert not known[lab.pod(name).inode].host
            lab.pod(name).stop_processes()
    assert namespaces.unavailable == ""


@pytest.mark.kernels
def test_its_number_is_the_one_that_interfaces_name_their_peers_namespace_by(lab, namespaces):
    for pod in lab.pods:
        cgroups.start(pod)
    cgroups.start(lab.outside)
    cgroups.start(lab.node)
    with lab.node.call(InterfaceMonitor) as monitor:
        by_name = {one.name: one for one in monitor.current().values()}
    refreshed(lab, namespaces)
    known = namespaces.current()

    numbers = {pod.inode: by_name[pod.host_interface].peer_netnsid for pod in lab.pods}
    numbers[lab.outside.inode] = by_name["uplink0"].peer_netnsid
    assert {inode: known[inode].nsid for inode in numbers} == numbers
    assert sorted(numbers.values()) == [0, 1, 2]
    others = [one.nsid for inode, one in known.items() if inode not in numbers]
    assert set(others) <= {-1}
    assert [one.inode for one in known.values() if one.host] == [lab.node.inode]


def test_numbers_are_those_of_a_moment_at_which_no_interface_changed(lab, looks):
    """A number is given again: with an interface that was read before, it would mislead."""
    pod = lab.pod("web")
    cgroups.start(pod)
    with lab.node.call(InterfaceMonitor) as monitor:
        told: list[int] = []
        left = [2]

        def interfaces() -> Mapping[int, Interface]:
            if left[0] and told:
                left[0] -= 1
                name = f"rt{left[0]}"
                lab.node.ip(f"link add {name} type veth peer name {name}p netns {pod.name}")
            monitor.poll()
            told.append(len(monitor.current()))
            return monitor.current()

        namespaces = NodeNamespaces(looks, interfaces)
        refreshed(lab, namespaces)
        n = told[0]
        assert told == [n, n + 1, n + 2, n + 2]
        assert namespaces.current()[pod.inode].nsid >= 0

        left[0] = 9
        refreshed(lab, namespaces)
        assert {one.nsid for one in namespaces.current().values()} == {-1}


def test_a_hundred_namespaces_are_told_by_their_numbers(lab, namespaces):
    """They are far apart: the kernel's tree of numbers has three levels."""
    made = [Namespace(lab.tag, f"n{number}") for number in range(100)]
    try:
        for number, one in enumerate(made):
            lab.node.run(["ip", "netns", "set", one.name, str(1000 + 37 * number)])
            cgroups.start(one)
        refreshed(lab, namespaces)
        known = namespaces.current()
        assert [known[one.inode].nsid for one in made] == [1000 + 37 * n for n in range(100)]
    finally:
        for one in made:
            one.remove()


def test_a_process_below_the_container_belongs_to_the_pod(lab, namespaces):
    uid, container, inner = cgroups.new_uid(), *(cgroups.new_container_id() for _ in range(2))
    with cgroups.hierarchy(2) as hierarchy:
        path = f"{cgroups.systemd(uid, container)}/docker/{inner}/system.slice"
        cgroups.start(lab.pod("web"), hierarchy.make(path))
        refreshed(lab, namespaces)
        assert namespaces.current()[lab.pod("web").inode].workloads == {uid, container, inner}
        lab.pod("web").stop_processes()


def test_what_no_runtime_started_is_nobodys(lab, namespaces):
    cgroups.start(lab.pod("web"))
    refreshed(lab, namespaces)
    assert namespaces.current()[lab.pod("web").inode].workloads == frozenset()
    assert lab.pod("api").inode not in namespaces.current()


def test_a_refresh_tells_whether_anything_changed(lab, namespaces):
    cgroups.start(lab.pod("web"))
    changed = refreshed(lab, namespaces)
    before = dict(namespaces.current())
    assert changed
    cgroups.start(lab.pod("api"))
    assert refreshed(lab, namespaces)
    assert lab.pod("api").inode in namespaces.current().keys() - before.keys()
    lab.pod("api").stop_processes()
    assert refreshed(lab, namespaces)
    assert lab.pod("api").inode not in namespaces.current()
