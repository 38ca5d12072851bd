"""Who is who by Kubernetes objects, whatever the order in which they come."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from retina_otel.kubernetes.inventory.inventory import Inventory
from retina_otel.kubernetes.inventory.local import LocalEnd, LocalPod
from retina_otel.kubernetes.inventory.owners import Missing
from retina_otel.kubernetes.objects import Kind, Object, Workload
from retina_otel.pipeline.identity.endpoints import EndpointKind
from tests.unit.kubernetes.kubernetes_world import (
    T0,
    Told,
    endpoint_slice,
    namespace,
    node,
    owner,
    pod,
    service,
    workload,
)

ROLLOUT = "argoproj.io/v1alpha1"


class Seen(Told):
    """An inventory and what it has told."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.inventory = Inventory(**options)  # type: ignore[arg-type]
        self.take(self.inventory.start())

    def apply(
        self, kind: Kind, *upserts: Object, deletes: Sequence[Object] = (), full: bool = False
    ) -> int:
        """How many endpoints it has told of."""
        change = self.inventory.apply(kind, upserts, deletes, T0, full)
        self.take(change)
        return len(change.added) + len(change.removed)


def test_pod_has_its_names_owner_node_and_place() -> None:
    seen = Seen()
    seen.apply(Kind.NODE, node("node-a", "172.30.0.2", zone="z1", region="r1"))
    seen.apply(Kind.REPLICA_SET, workload("ReplicaSet", "web-7d4", owner("Deployment", "web")))
    seen.apply(
        Kind.POD, pod("web-7d4-x", "10.0.0.7", "fd00::7", owned=owner("ReplicaSet", "web-7d4"))
    )
    assert seen.attributes("uid-web-7d4-x") == {
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "web-7d4-x",
        "k8s.pod.uid": "uid-web-7d4-x",
        "k8s.node.name": "node-a",
        "k8s.owner.name": "web",
        "k8s.owner.type": "deployment",
        "k8s.resource.type": "pod",
        "cloud.availability_zone": "z1",
        "cloud.region": "r1",
    }
    assert seen.endpoints["uid-web-7d4-x"].addresses == ("10.0.0.7", "fd00::7")
    assert seen.endpoints["node:node-a"].addresses == ("172.30.0.2",)


def test_owner_is_found_when_it_comes_after_its_pods() -> None:
    seen = Seen()
    seen.apply(Kind.POD, pod("web-7d4-x", "10.0.0.7", owned=owner("ReplicaSet", "web-7d4")))
    assert seen.attributes("uid-web-7d4-x")["k8s.owner.name"] == "web-7d4", "what is known"
    told = seen.apply(
        Kind.REPLICA_SET,
        workload("ReplicaSet", "web-7d4", owner("Deployment", "web")),
        workload("ReplicaSet", "api-1", owner("Deployment", "api")),
    )
    assert told == 1
    assert seen.attributes("uid-web-7d4-x")["k8s.owner.name"] == "web"
    assert not seen.inventory.missing_owners


def test_chain_of_owners_goes_through_custom_kinds() -> None:
    seen = Seen()
    seen.apply(Kind.POD, pod("p", "10.0.0.7", owned=owner("ReplicaSet", "web-7d4")))
    rollout = owner("Rollout", "web", ROLLOUT)
    seen.apply(Kind.REPLICA_SET, workload("ReplicaSet", "web-7d4", rollout))
    assert seen.attributes("uid-p")["k8s.owner.type"] == "rollout"
    assert seen.inventory.missing_owners == {rollout.uid: Missing("shop", rollout)}
    app = owner("Application", "shop", "example.com/v1")
    seen.apply(Kind.OWNER, workload("Rollout", "web", app, ROLLOUT))
    assert seen.attributes("uid-p")["k8s.owner.name"] == "shop"
    seen.apply(Kind.OWNER, workload("Application", "shop", None, "example.com/v1"))
    assert not seen.inventory.missing_owners


def test_a_deployments_own_owner_is_not_asked_for() -> None:
    seen = Seen()
    seen.apply(Kind.POD, pod("db-0", "10.0.0.7", owned=owner("StatefulSet", "db")))
    assert seen.attributes("uid-db-0")["k8s.owner.type"] == "statefulset"
    assert not seen.inventory.missing_owners


def test_pod_without_owner_and_static_pod_are_their_own() -> None:
    seen = Seen()
    seen.apply(
        Kind.POD,
        pod("alone", "10.0.0.7"),
        pod("static", "10.0.0.8", owned=owner("Node", "n", "v1")),
    )
    for name in ("alone", "static"):
        attributes = seen.attributes(f"uid-{name}")
        assert (attributes["k8s.owner.name"], attributes["k8s.owner.type"]) == (name, "pod")


def test_owners_in_a_circle_come_to_an_end() -> None:
    seen = Seen()
    a, b = owner("A", "a", "x/v1"), owner("B", "b", "x/v1")
    seen.apply(Kind.OWNER, workload("A", "a", b, "x/v1"), workload("B", "b", a, "x/v1"))
    seen.apply(Kind.POD, pod("p", "10.0.0.7", owned=a))
    assert seen.attributes("uid-p")["k8s.owner.type"] in ("a", "b")


def test_owner_that_is_deleted_before_its_pods_is_still_theirs() -> None:
    seen = Seen()
    replica_set = workload("ReplicaSet", "web-7d4", owner("Deployment", "web"))
    seen.apply(Kind.REPLICA_SET, replica_set)
    seen.apply(Kind.POD, pod("p", "10.0.0.7", owned=owner("ReplicaSet", "web-7d4")))
    seen.apply(Kind.REPLICA_SET, deletes=[replica_set])
    seen.apply(Kind.POD, pod("p", "10.0.0.7", owned=owner("ReplicaSet", "web-7d4"), running=5))
    assert seen.attributes("uid-p")["k8s.owner.name"] == "web"


def test_owners_that_are_gone_are_forgotten_with_their_pods() -> None:
    seen = Seen()
    seen.apply(Kind.POD, pod("stays", "10.0.0.7", owned=owner("ReplicaSet", "rs-3")))
    sets = [workload("ReplicaSet", f"rs-{n}", owner("Deployment", "web")) for n in range(2_000)]
    seen.apply(Kind.REPLICA_SET, *sets)
    seen.apply(Kind.REPLICA_SET, deletes=sets)
    assert len(seen.inventory._owners) == 1
    assert seen.attributes("uid-stays")["k8s.owner.name"] == "web"


def test_labels_and_annotations_that_were_asked_for_are_attributes() -> None:
    seen = Seen()
    seen.apply(Kind.POD, pod("p", "10.0.0.7", labels={"app": "web"}, annotations={"team": "a"}))
    attributes = seen.attributes("uid-p")
    assert attributes["k8s.pod.label.app"] == "web"
    assert attributes["k8s.pod.annotation.team"] == "a"


def test_pod_on_the_hosts_network_does_not_claim_the_nodes_address() -> None:
    seen = Seen(node_name="node-a")
    seen.apply(Kind.POD, pod("proxy", "172.30.0.2", host_network=True, containers=("c1",)))
    assert seen.endpoints["uid-proxy"].addresses == ()
    assert seen.endpoints["uid-proxy"].aliases == ("c1",)
    assert list(seen.inventory.local_pods()) == [LocalPod("uid-proxy", ("c1",), (), True)]


def test_pod_elsewhere_without_an_address_is_not_told_of() -> None:
    seen = Seen(node_name="node-a")
    assert seen.apply(Kind.POD, pod("pending", node="")) == 0
    assert seen.apply(Kind.POD, pod("pending", node="node-b")) == 0
    assert seen.apply(Kind.POD, pod("pending", "10.0.0.7", node="node-b")) == 1
    assert seen.attributes("uid-pending")["k8s.node.name"] == "node-b"


def test_pod_of_this_node_is_told_of_before_it_has_an_address() -> None:
    seen = Seen(node_name="node-a")
    assert seen.apply(Kind.POD, pod("starting")) == 1


def test_what_says_nothing_new_is_not_told() -> None:
    seen = Seen()
    assert seen.apply(Kind.POD, pod("p", "10.0.0.7", running=5)) == 1
    assert seen.apply(Kind.POD, pod("p", "10.0.0.7", running=5)) == 0
    assert seen.apply(Kind.NODE, node("n", "172.30.0.2")) == 1
    assert seen.apply(Kind.NODE, node("n", "172.30.0.2")) == 0


def test_full_list_ends_what_is_not_in_it() -> None:
    seen = Seen()
    seen.apply(Kind.POD, pod("a", "10.0.0.7"), pod("b", "10.0.0.8"))
    seen.apply(Kind.SERVICE, service("s", "10.96.0.7"), service("t", "10.96.0.8"))
    seen.apply(Kind.NODE, node("n"), node("m"))
    seen.apply(Kind.POD, pod("b", "10.0.0.8"), full=True)
    seen.apply(Kind.SERVICE, service("t", "10.96.0.8"), full=True)
    seen.apply(Kind.NODE, node("m"), full=True)
    assert sorted(seen.endpoints) == ["node:m", "uid-b", "uid-shop-t"]


def test_list_that_was_told_in_parts_ends_what_is_not_in_it() -> None:
    seen = Seen(observe_annotated=True)
    kubernetes = [service("kubernetes", "10.96.0.1", namespace="default")]
    old: dict[Kind, list[Object]] = {
        Kind.POD: [pod("a", "10.0.0.7"), pod("b", "10.0.0.8")],
        Kind.SERVICE: [service("s", "10.96.0.7"), service("t", "10.96.0.8"), *kubernetes],
        Kind.NODE: [node("n"), node("m")],
        Kind.NAMESPACE: [namespace(name, **{"retina.sh": "observe"}) for name in ("x", "y")],
        Kind.ENDPOINT_SLICE: [endpoint_slice("kubernetes", "172.30.0.9")],
    }
    for kind, objects in old.items():
        seen.apply(kind, *objects)
    for kind, objects in old.items():
        listed = frozenset(one.meta.uid for one in objects[1:])
        seen.take(seen.inventory.apply(kind, [], [], T0, True, listed=listed))
    assert sorted(seen.endpoints) == ["node:m", "service:default/kubernetes", "uid-b", "uid-shop-t"]
    assert seen.endpoints["service:default/kubernetes"].addresses == ("10.96.0.1",)
    assert seen.inventory.observed_namespaces == {"y"}


def test_node_that_comes_again_under_its_name_outlives_the_end_of_the_old_one() -> None:
    seen = Seen()
    old, new = node("n", "172.30.0.2", uid="1"), node("n", "172.30.0.3", uid="2")
    seen.apply(Kind.NODE, old)
    seen.apply(Kind.NODE, new, deletes=[old])
    assert seen.endpoints["node:n"].addresses == ("172.30.0.3",)


def test_zone_reaches_pods_that_were_there_before_their_node() -> None:
    seen = Seen()
    seen.apply(Kind.POD, pod("p", "10.0.0.7", node="node-a"), pod("q", "10.0.0.8", node="node-b"))
    assert seen.apply(Kind.NODE, node("node-a", zone="z1")) == 2
    assert seen.attributes("uid-p")["cloud.availability_zone"] == "z1"
    assert "cloud.availability_zone" not in seen.attributes("uid-q")


def test_service_has_its_addresses_and_node_ports() -> None:
    seen = Seen()
    seen.apply(Kind.SERVICE, service("api", "10.96.0.7", node_port=30080), service("headless"))
    assert seen.attributes("uid-shop-api") == {
        "k8s.namespace.name": "shop",
        "k8s.service.name": "api",
        "k8s.resource.type": "service",
    }
    assert list(seen.endpoints) == ["uid-shop-api"]
    assert seen.endpoints["uid-shop-api"].node_ports == (6 << 16 | 30080,)
    seen.apply(Kind.SERVICE, service("api", "10.96.0.7"))
    assert seen.endpoints["uid-shop-api"].node_ports == ()
    seen.apply(Kind.SERVICE, service("api"))
    assert not seen.endpoints


def test_api_server_is_the_service_kubernetes_at_all_its_addresses() -> None:
    seen = Seen(api_server=["192.0.2.1"])
    key = "service:default/kubernetes"
    assert seen.addresses() == {key: ["192.0.2.1"]}
    kubernetes = service("kubernetes", "10.96.0.1", namespace="default")
    seen.apply(Kind.SERVICE, kubernetes, full=True)
    seen.apply(Kind.ENDPOINT_SLICE, endpoint_slice("kubernetes", "172.30.0.9"), full=True)
    seen.apply(Kind.ENDPOINT_SLICE, endpoint_slice("other", "172.30.0.8"))
    assert seen.addresses() == {key: ["10.96.0.1", "172.30.0.9", "192.0.2.1"]}
    assert seen.attributes(key)["k8s.service.name"] == "kubernetes"
    seen.apply(Kind.ENDPOINT_SLICE, full=True)
    seen.apply(Kind.SERVICE, deletes=[kubernetes])
    assert seen.addresses() == {key: ["192.0.2.1"]}


def test_named_networks_are_there_from_the_start() -> None:
    seen = Seen(cidrs={"office": "192.0.2.0/24"})
    (endpoint,) = seen.endpoints.values()
    assert endpoint.kind is EndpointKind.CIDR
    assert endpoint.attributes["cidr"] == "office"
    assert endpoint.addresses == ("192.0.2.0/24",)


def test_local_end_is_bound_before_and_after_the_pod_is_known() -> None:
    seen = Seen(node_name="node-a")
    seen.take(seen.inventory.bind({"uid-a": LocalEnd((7,), (3,)), "uid-b": LocalEnd((8,), (4,))}))
    assert not seen.endpoints, "whoever that is"
    seen.apply(Kind.POD, pod("a", "10.0.0.7"))
    assert seen.endpoints["uid-a"].netns == (7,)
    assert seen.endpoints["uid-a"].interfaces == (3,)
    seen.take(seen.inventory.bind({"uid-a": LocalEnd((7,), (5,))}))
    assert seen.endpoints["uid-a"].interfaces == (5,)
    seen.take(seen.inventory.bind({}))
    assert seen.endpoints["uid-a"].interfaces == ()


def test_annotations_say_who_is_to_be_observed() -> None:
    seen = Seen(observe_annotated=True)
    seen.apply(Kind.NAMESPACE, namespace("shop", **{"retina.sh": "observe"}), namespace("web"))
    seen.apply(Kind.POD, pod("a", "10.0.0.7", annotations={"retina.sh": "observe"}))
    seen.apply(Kind.POD, pod("b", "10.0.0.8", annotations={"retina.sh": "no"}))
    assert seen.inventory.observed_namespaces == {"shop"}
    assert seen.inventory.observed_pods == {"uid-a"}
    assert not [name for name in seen.attributes("uid-a") if "annotation" in name]
    seen.apply(Kind.POD, pod("a", "10.0.0.7"))
    seen.apply(Kind.NAMESPACE, namespace("web"), full=True)
    assert not seen.inventory.observed_pods
    assert not seen.inventory.observed_namespaces


NAMES = ["a", "b", "c"]
KINDS = {
    "ReplicaSet": Kind.REPLICA_SET,
    "Job": Kind.JOB,
    "Rollout": Kind.OWNER,
}


@st.composite
def worlds(draw: st.DrawFn) -> dict[tuple[Kind, str], list[Object | None]]:
    """For each object its states in order; None: it is gone."""
    world: dict[tuple[Kind, str], list[Object | None]] = {}
    refs = [None, owner("Deployment", "web"), owner("Rollout", "a", ROLLOUT)]
    for kind, api in (("ReplicaSet", "apps/v1"), ("Rollout", ROLLOUT)):
        for name in draw(st.sets(st.sampled_from(NAMES))):
            owned = draw(st.sampled_from(refs[: 2 if kind == "Rollout" else 3]))
            world[KINDS[kind], name] = [workload(kind, name, owned, api)]
    for name in draw(st.sets(st.sampled_from(NAMES))):
        zones = draw(st.lists(st.sampled_from(["", "z1", "z2"]), min_size=1, max_size=3))
        world[Kind.NODE, name] = [node(f"node-{name}", f"172.30.0.{len(z)}", zone=z) for z in zones]
    for number, name in enumerate(draw(st.sets(st.sampled_from(NAMES)))):
        states: list[Object | None] = [service(name, f"10.96.0.{number}")]
        world[Kind.SERVICE, name] = [*states, *draw(st.sampled_from([[], [None]]))]
    for number in range(draw(st.integers(0, 6))):
        name = f"pod-{number}"
        where = f"node-{draw(st.sampled_from(NAMES))}"
        owned = draw(
            st.sampled_from(
                [None, *(owner("ReplicaSet", n) for n in NAMES), owner("DaemonSet", "d")]
            )
        )
        address = f"10.0.0.{number}"
        life: list[Object | None] = [
            pod(name, node="", owned=owned, phase="Pending"),
            pod(name, node=where, owned=owned, phase="Pending"),
            pod(name, address, node=where, owned=owned, running=5),
            pod(name, address, node=where, owned=owned, running=5, deleted=9),
            draw(st.sampled_from([None, pod(name, address, node=where, phase="Failed", ended=12)])),
        ]
        world[Kind.POD, name] = life[: draw(st.integers(1, len(life)))]
    return world


@settings(max_examples=200, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_changes_in_any_order_come_to_the_final_state(
    world: dict[tuple[Kind, str], list[Object | None]], chance: random.Random
) -> None:
    seen = Seen(node_name="node-a")
    left = {key: list(states) for key, states in world.items()}
    last: dict[tuple[Kind, str], Object] = {}
    while left:
        kind = chance.choice(list(left))[0]
        upserts, deletes = [], []
        for key in [key for key in left if key[0] is kind and chance.random() < 0.7]:
            state = left[key].pop(0)
            if state is None:
                deletes.append(last.pop(key))
            else:
                last[key] = state
                upserts.append(state)
            if not left[key]:
                del left[key]
        seen.apply(kind, *upserts, deletes=deletes)
        if chance.random() < 0.1:
            seen.apply(kind, *(one for key, one in last.items() if key[0] is kind), full=True)
    expected = Seen(node_name="node-a")
    for kind in (Kind.NODE, Kind.OWNER, Kind.REPLICA_SET, Kind.SERVICE, Kind.POD):
        expected.apply(kind, *(one for key, one in last.items() if key[0] is kind), full=True)
    assert {key: dict(one.attributes) for key, one in seen.endpoints.items()} == {
        key: dict(one.attributes) for key, one in expected.endpoints.items()
    }
    assert seen.addresses() == expected.addresses()
    assert all(isinstance(one, Workload) for key, one in last.items() if key[0] in KINDS.values())
