"""RetinaEndpoints: how they are read, and what they tell of the pods of other nodes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.extensions.kubernetes import KubernetesSettings
from retina_otel.kubernetes.api.decode import Decoder, Wanted
from retina_otel.kubernetes.api.protobuf import WireError
from retina_otel.kubernetes.api.resources import RETINA_ENDPOINTS as RESOURCE
from retina_otel.kubernetes.api.stream import Lines
from retina_otel.kubernetes.inventory.inventory import Inventory
from retina_otel.kubernetes.objects import Kind, Meta, OwnerRef, Pod
from retina_otel.pipeline.identity.endpoints import FOREVER
from tests.unit.kubernetes.kubernetes_world import SECOND, T0, Told, node, owner, pod, workload

NODE_A, NODE_B = "172.30.0.1", "172.30.0.2"
GIVEN: dict[str, Any] = {
    "metadata": {
        "name": "web-7d4-x",
        "namespace": "shop",
        "uid": "e-1",
        "resourceVersion": "17",
        "creationTimestamp": "2026-11-21T08:00:00Z",
    },
    "spec": {
        "containers": [{"name": "a", "id": "containerd://aaaa"}],
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4"}],
        "nodeIP": NODE_B,
        "podIP": "10.0.1.7",
        "podIPs": ["10.0.1.7", "FD00::7"],
        "labels": {"app": "web", "other": "x"},
        "annotations": {"team": "a", "other": "x"},
    },
}


def read(document: object, wanted: Wanted | None = None) -> Pod:
    type_, message = RESOURCE.wire.event(
        "", json.dumps({"type": "ADDED", "object": document}).encode()
    )
    assert type_ == "ADDED"
    found = RESOURCE.decode(Decoder(wanted or Wanted()), message)
    assert isinstance(found, Pod)
    return found


def test_it_is_read_as_the_pod_it_stands_for() -> None:
    wanted = Wanted(frozenset({"app"}), frozenset({"team"}))
    assert read(GIVEN, wanted) == Pod(
        Meta(
            "web-7d4-x",
            "e-1",
            "17",
            "shop",
            1_795_248_000 * SECOND,
            owner=OwnerRef("apps/v1", "ReplicaSet", "web-7d4", ""),
            labels={"app": "web"},
            annotations={"team": "a"},
        ),
        addresses=("10.0.1.7", "fd00::7"),
        node_addresses=(NODE_B,),
    )


def test_on_the_hosts_network_it_has_its_nodes_address() -> None:
    spec = {"nodeIP": NODE_B, "podIP": NODE_B, "podIPs": [NODE_B, "fd00::b"]}
    assert read({**GIVEN, "spec": spec}).host_network
    assert not read(GIVEN).host_network


@pytest.mark.parametrize(
    "spec",
    [
        None,
        "text",
        {"podIPs": "10.0.0.1", "podIP": 7, "nodeIP": {}},
        {"podIPs": ["", "10.0.0.1/8", "web", None, 5], "ownerReferences": {"kind": "Pod"}},
        {"ownerReferences": [None], "labels": ["app"], "annotations": {"team": 3}},
        {"ownerReferences": [{"kind": "ReplicaSet"}]},
    ],
)
def test_what_makes_no_sense_is_left_out(spec: object) -> None:
    wanted = Wanted(frozenset({"app"}), frozenset({"team"}))
    found = read({**GIVEN, "spec": spec}, wanted)
    assert (found.addresses, found.node_addresses, found.meta.owner) == ((), (), None)
    assert (dict(found.meta.labels), dict(found.meta.annotations)) == ({}, {})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_an_object_or_none(value: object) -> None:
    assert read(value).addresses == ()
    for frame in (value, {"type": "ERROR", "object": value}, {"type": value}):
        RESOURCE.wire.event("", json.dumps(frame).encode())
    RESOURCE.page(json.dumps(value).encode())


def test_errors_bookmarks_and_pages_are_those_of_protobuf() -> None:
    status = {"message": "too old", "code": 410, "details": {"retryAfterSeconds": 3}}
    type_, found = RESOURCE.wire.event("", json.dumps({"type": "ERROR", "object": status}).encode())
    assert (type_, found.message, found.code) == ("ERROR", "too old", 410)
    assert found.details.retry_after_seconds == 3
    odd = {"code": 10**30, "details": {"retryAfterSeconds": -(10**30)}}
    RESOURCE.wire.event("", json.dumps({"type": "ERROR", "object": odd}).encode())
    end = {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}
    type_, found = RESOURCE.wire.event(
        "", json.dumps({"type": "BOOKMARK", "object": {"metadata": end}}).encode()
    )
    assert (type_, found.metadata.resource_version) == ("BOOKMARK", "9")
    assert dict(found.metadata.annotations) == end["annotations"]
    meta = {"resourceVersion": "9", "continue": "more"}
    page = RESOURCE.page(json.dumps({"metadata": meta, "items": [GIVEN]}).encode())
    assert (page.resource_version, page.continue_token, len(page.items)) == ("9", "more", 1)
    with pytest.raises(WireError, match="no JSON"):
        RESOURCE.page(b"<html>")


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b""))), st.integers(1, 9))
def test_lines_come_out_whole_however_they_are_cut(lines: list[bytes], cut: int) -> None:
    sent = b"".join(line + b"\n" for line in lines)
    splits = Lines()
    found = [
        line for low in range(0, len(sent), cut) for line in splits.feed(sent[low : low + cut])
    ]
    assert found == [line for line in lines if line.strip()]


def test_a_line_without_end_is_refused() -> None:
    splits = Lines()
    assert splits.feed(b"x" * (16 << 20)) == []
    with pytest.raises(ConnectionError, match="too long"):
        splits.feed(b"x")


class Seen(Told):
    def __init__(self, node_name: str = "node-a") -> None:
        super().__init__()
        self.inventory = Inventory(node_name=node_name, retina_endpoints=True)
        self.now = T0

    def apply(self, kind: Kind, *upserts: Any, deletes: Any = (), full: bool = False) -> None:
        self.take(self.inventory.apply(kind, upserts, deletes, self.now, full))


def elsewhere(name: str, address: str, at: str = NODE_B, owned: str = "") -> Pod:
    made = pod(name, address, node="", uid=f"e-{name}", phase="")
    ref = OwnerRef("apps/v1", "ReplicaSet", owned, "") if owned else None
    return replace(made, meta=replace(made.meta, owner=ref), node_addresses=(at,))


WEB = elsewhere("web-7d4-x", "10.0.1.7", owned="web-7d4")
STEPS = (
    (Kind.NODE, (node("node-a", NODE_A, zone="z1"), node("node-b", NODE_B, zone="z2"))),
    (Kind.RETINA_ENDPOINT, (WEB, elsewhere("own", "10.0.0.5", NODE_A))),
    (Kind.POD, (pod("own", "10.0.0.5", node="node-a", uid="p-own"),)),
    (Kind.REPLICA_SET, (workload("ReplicaSet", "web-7d4", owner("Deployment", "web")),)),
)


@pytest.mark.parametrize("order", list(itertools.permutations(range(len(STEPS)))))
def test_whatever_comes_first_pods_elsewhere_are_told_and_own_ones_only_as_pods(
    order: tuple[int, ...],
) -> None:
    seen = Seen()
    for step in order:
        kind, objects = STEPS[step]
        seen.apply(kind, *objects, full=True)
    assert seen.attributes("e-web-7d4-x") == {
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "web-7d4-x",
        "k8s.node.name": "node-b",
        "k8s.owner.name": "web",
        "k8s.owner.type": "deployment",
        "k8s.resource.type": "pod",
        "cloud.availability_zone": "z2",
    }
    pods = {key for key in seen.endpoints if not key.startswith("node:")}
    assert pods == {"e-web-7d4-x", "p-own"}


def test_none_is_told_while_it_may_be_of_this_node() -> None:
    seen = Seen()
    seen.apply(Kind.RETINA_ENDPOINT, WEB, full=True)
    seen.apply(Kind.NODE, node("node-b", NODE_B))
    assert "e-web-7d4-x" not in seen.endpoints
    seen.apply(Kind.NODE, node("node-a", NODE_A))
    assert "e-web-7d4-x" in seen.endpoints
    without = Seen(node_name="")
    without.apply(Kind.RETINA_ENDPOINT, WEB, full=True)
    assert "e-web-7d4-x" in without.endpoints


def test_a_list_of_pods_ends_no_endpoint_and_a_list_of_endpoints_no_pod() -> None:
    seen = Seen()
    for kind, objects in STEPS:
        seen.apply(kind, *objects, full=True)
    seen.apply(Kind.POD, *STEPS[2][1], full=True)
    seen.apply(Kind.RETINA_ENDPOINT, full=True)
    assert {key for key in seen.endpoints if not key.startswith("node:")} == {"p-own"}


def test_of_its_address_is_certain_only_what_was_heard() -> None:
    seen = Seen()
    seen.apply(*_unpack(STEPS[0]))
    created = replace(WEB, meta=replace(WEB.meta, created_ns=T0 - 60 * SECOND))
    seen.apply(Kind.RETINA_ENDPOINT, created)
    valid = seen.endpoints["e-web-7d4-x"].valid
    assert (valid.possible_from, valid.certain_from) == (T0 - 60 * SECOND, T0)
    assert (valid.certain_until, valid.possible_until) == (FOREVER, FOREVER)

    seen.now = T0 + 30 * SECOND
    moved = replace(created, addresses=("10.0.1.8",))
    seen.apply(Kind.RETINA_ENDPOINT, moved)
    valid = seen.endpoints["e-web-7d4-x"].valid
    assert valid.certain_from == T0 + 30 * SECOND

    seen.now = T0 + 90 * SECOND
    change = seen.inventory.apply(Kind.RETINA_ENDPOINT, (), (moved,), seen.now)
    (final,) = change.added
    assert change.removed == ["e-web-7d4-x"]
    assert final.valid.certain_until == T0 + 30 * SECOND
    assert final.valid.possible_until == T0 + 90 * SECOND


def _unpack(step: tuple[Kind, tuple[Any, ...]]) -> tuple[Any, ...]:
    return step[0], *step[1]


@pytest.mark.parametrize(
    "more", [{"context": "local"}, {"context": "node"}, {"service": {"endpoint": "a:1"}}]
)
def test_the_setting_is_refused_where_it_means_nothing(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="leave pods_from out"):
        KubernetesSettings.model_validate({"pods_from": "retina_endpoints", **more})
