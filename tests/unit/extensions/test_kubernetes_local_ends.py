"""Which pod of this node lives behind which interface: sure, or nobody's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from retina_otel.extensions.kubernetes.local_ends import LocalEnds
from retina_otel.kubernetes.inventory.local import LocalEnd, LocalPod
from retina_otel.model.interfaces import Interface
from retina_otel.model.namespaces import NetworkNamespace

A, B, C = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")


def wire(ifindex: int, nsid: int) -> Interface:
    return Interface(ifindex, f"veth{ifindex}", "veth", True, False, 1500, 0, nsid, 2)


def netns(inode: int, nsid: int, *workloads: str, host: bool = False) -> NetworkNamespace:
    return NetworkNamespace(inode, nsid, host, frozenset(workloads))


UPLINK = replace(wire(2, 9), default_route=True)


def by_processes(
    ends: LocalEnds,
    pods: Iterable[LocalPod],
    namespaces: Iterable[NetworkNamespace],
    *interfaces: Interface,
    looked_ns: int = 0,
) -> Mapping[str, LocalEnd]:
    return ends.by_processes(pods, namespaces, [*interfaces, UPLINK], looked_ns)


def test_pod_has_the_namespace_of_its_processes_and_the_wires_into_it() -> None:
    pods = [LocalPod(A), LocalPod(B, ("container-b",))]
    spaces = [netns(70, 1, A, "sandbox"), netns(80, 2, "container-b"), netns(90, 9)]
    ends = by_processes(LocalEnds(), pods, spaces, wire(3, 1), wire(4, 2), wire(5, 2), wire(6, 8))
    assert ends == {A: LocalEnd((70,), (3,)), B: LocalEnd((80,), (4, 5))}


def test_namespace_of_a_pod_that_is_not_known_yet_is_bound_when_it_is() -> None:
    ends = LocalEnds()
    assert by_processes(ends, [], [netns(70, 1, A)], wire(3, 1)) == {}
    assert by_processes(ends, [LocalPod(A)], [netns(70, 1, A)], wire(3, 1)) == {
        A: LocalEnd((70,), (3,))
    }


def test_pod_on_the_hosts_network_owns_no_namespace() -> None:
    pods = [LocalPod(A, host_network=True), LocalPod(B)]
    spaces = [netns(1, -1, A, host=True), netns(70, 1, A, B)]
    assert by_processes(LocalEnds(), pods, spaces, wire(3, 1)) == {B: LocalEnd((70,), (3,))}


def test_namespace_with_the_processes_of_two_pods_is_nobodys() -> None:
    pods = [LocalPod(A), LocalPod(B)]
    assert by_processes(LocalEnds(), pods, [netns(70, 1, A, B)], wire(3, 1)) == {}
    assert by_processes(LocalEnds(), pods, [netns(70, 1, A, C)], wire(3, 1)) == {}, "one unknown"


def test_pod_that_another_one_looks_into_keeps_what_it_had() -> None:
    ends, pods = LocalEnds(), [LocalPod(A), LocalPod(B)]
    by_processes(ends, pods, [netns(70, 1, A)], wire(3, 1))
    assert by_processes(ends, pods, [netns(70, 1, A, B)], wire(3, 1)) == {A: LocalEnd((70,), (3,))}


def test_what_a_pod_had_stays_its_own_until_the_pod_is_gone() -> None:
    ends = LocalEnds()
    by_processes(ends, [LocalPod(A)], [netns(70, 1, A)], wire(3, 1))
    assert by_processes(ends, [LocalPod(A)], []) == {A: LocalEnd((70,), (3,))}
    assert by_processes(ends, [], []) == {}


def test_inode_that_is_given_again_belongs_to_the_new_pod() -> None:
    ends, pods = LocalEnds(), [LocalPod(A), LocalPod(B)]
    by_processes(ends, pods, [netns(70, 1, A)], wire(3, 1))
    assert by_processes(ends, pods, [netns(70, 1, B)], wire(4, 1)) == {
        A: LocalEnd((), (3,)),
        B: LocalEnd((70,), (4,)),
    }


def test_inode_that_is_given_again_tells_nothing_of_before_it_was_seen_to_be_the_new_pods() -> None:
    ends, pods = LocalEnds(), [LocalPod(A), LocalPod(B), LocalPod(C)]
    by_processes(ends, pods, [netns(70, 1, A, "sandbox-a")], looked_ns=10)
    between = by_processes(ends, pods, [netns(70, 1, B)], looked_ns=20)
    assert between[B] == LocalEnd((70,), (), 20), "in between it was one's, then the other's"
    later = by_processes(ends, pods, [netns(70, 1, B, "container")], looked_ns=30)
    assert later[B] == LocalEnd((70,), (), 20), "a container more is no other namespace"


def test_inode_that_was_nobodys_at_the_last_look_is_the_pods_since_then() -> None:
    ends = LocalEnds()
    by_processes(ends, [LocalPod(A)], [netns(70, 1, A)], looked_ns=10)
    by_processes(ends, [LocalPod(A)], [], looked_ns=20)
    assert by_processes(ends, [LocalPod(B)], [netns(70, 1, B)], looked_ns=30) == {
        B: LocalEnd((70,), (), 20)
    }


def test_namespace_is_the_pods_since_it_was_seen_also_where_the_pod_is_heard_of_later() -> None:
    ends = LocalEnds()
    by_processes(ends, [], [netns(60, 1, C)], looked_ns=10)
    by_processes(ends, [], [netns(70, 1, A)], looked_ns=20)
    assert by_processes(ends, [LocalPod(A)], [netns(70, 1, A)], looked_ns=30) == {
        A: LocalEnd((70,), (), 10)
    }


def test_by_addresses_an_interface_belongs_to_the_only_pod_that_claims_one() -> None:
    pods = [
        LocalPod(A, addresses=("10.0.0.7", "fd00::7")),
        LocalPod(B, addresses=("10.0.0.8",)),
        LocalPod(C, addresses=("172.30.0.2",), host_network=True),
    ]
    there = {3: ["10.0.0.7", "fd00::7"], 4: ["10.0.0.8"], 5: ["172.30.0.2"], 6: []}
    assert LocalEnds().by_addresses(pods, there) == {A: LocalEnd((), (3,)), B: LocalEnd((), (4,))}


def test_by_addresses_what_two_pods_claim_is_nobodys() -> None:
    ends = LocalEnds()
    old = LocalPod(A, addresses=("10.0.0.7",))
    new = LocalPod(B, addresses=("10.0.0.7",))
    assert ends.by_addresses([old], {3: ["10.0.0.7"]}) == {A: LocalEnd((), (3,))}
    # The address is at another wire, but the API server still says that it is the old pod's.
    assert ends.by_addresses([old], {4: ["10.0.0.7"]}) == {A: LocalEnd((), (3,))}
    assert ends.by_addresses([old, new], {4: ["10.0.0.7"]}) == {A: LocalEnd((), (3,))}
    assert ends.by_addresses([new], {4: ["10.0.0.7"]}) == {B: LocalEnd((), (4,))}


def test_by_addresses_a_guess_that_becomes_doubtful_is_taken_back() -> None:
    ends = LocalEnds()
    old = LocalPod(A, addresses=("10.0.0.7",))
    new = LocalPod(B, addresses=("10.0.0.7",))
    assert ends.by_addresses([old], {4: ["10.0.0.7"]}) == {A: LocalEnd((), (4,))}
    assert ends.by_addresses([old, new], {4: ["10.0.0.7"]}) == {}
    assert ends.by_addresses([new], {4: ["10.0.0.7"]}) == {B: LocalEnd((), (4,))}
