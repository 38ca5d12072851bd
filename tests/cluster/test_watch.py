"""A watcher tells exactly what the API server has."""

from __future__ import annotations

import json
from dataclasses import replace

from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.resources import RESOURCES
from retina_otel.kubernetes.api.watch import Wanted
from retina_otel.testing.cluster import ControlPlane
from tests.cluster.mirror import QUICK, reduced, watching
from tests.cluster.objects import EVERYTHING
from tests.cluster.pods import Pods

EVERY_KEY = Wanted(
    frozenset({"app", "team", "topology.kubernetes.io/zone"}), frozenset({"retina.sh"})
)


def test_protobuf_of_the_api_server_decodes_to_what_its_json_says(
    control_plane: ControlPlane, pods: Pods
) -> None:
    access = Access.from_settings(control_plane.kubeconfig)
    for path, body, status_of in EVERYTHING:
        made = access.post(path, body)
        if status_of:
            with access.session() as session:
                session.request(
                    "PATCH",
                    f"{path}/{made['metadata']['name']}/status",
                    body={"status": status_of},
                    content_type="application/merge-patch+json",
                )
    # It stays, being deleted, until its finalizer is gone.
    pods.delete("on-host", grace_s=20)
    try:
        for kind, resource in RESOURCES.items():
            items = json.loads(access.get(resource.path))["items"]
            expected = [reduced(kind, item, EVERY_KEY) for item in items]
            assert expected
            with watching(control_plane.kubeconfig, kind, wanted=EVERY_KEY) as mirror:
                mirror.wait_state(True)
                told = mirror.objects
            assert told == {one.meta.uid: one for one in expected}
            assert {one.meta.resource_version for one in told.values()} == {
                one.meta.resource_version for one in expected
            }
    finally:
        pods.patch("on-host", {"metadata": {"finalizers": None}})
        with access.session() as session:
            for path, body, _ in EVERYTHING:
                if not path.endswith("/pods"):
                    session.request("DELETE", f"{path}/{body['metadata']['name']}")


def test_after_any_changes_what_is_told_is_what_the_api_server_lists(
    control_plane: ControlPlane, pods: Pods
) -> None:
    for n in range(20):
        pods.create(f"before-{n}")
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        for n in range(20):
            pods.create(f"after-{n}")
            pods.run(f"after-{n}", f"10.0.0.{n}")
            pods.delete(f"before-{n}")
            if n % 2:
                pods.delete(f"after-{n}")
        pods.create("last")
        mirror.wait_for("last")

        told = {uid: one.meta.resource_version for uid, one in mirror.objects.items()}
        assert told == pods.listed()
        assert mirror.names() == {"last", *(f"after-{n}" for n in range(0, 20, 2))}
        assert mirror.lists() == 1
        deleted = [one.meta.name for each in mirror.changes for one in each.deleted]
        assert sorted(deleted) == sorted(
            [*(f"before-{n}" for n in range(20)), *(f"after-{n}" for n in range(1, 20, 2))]
        )


def test_a_deleted_pod_is_told_with_its_last_state(control_plane: ControlPlane, pods: Pods) -> None:
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        pods.create("one")
        pods.run("one", "10.0.0.1")
        pods.delete("one")
        pods.create("last")
        mirror.wait_for("last")
        [gone] = [one for each in mirror.changes for one in each.deleted]
        assert (gone.meta.name, gone.addresses) == ("one", ("10.0.0.1",))


def test_a_heartbeat_is_not_told(control_plane: ControlPlane, pods: Pods) -> None:
    pods.create("one")
    pods.run("one", "10.0.0.1")
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        for n in range(5):
            pods.patch("one", {"status": {"message": f"beat {n}"}}, "/status")
        pods.create("last")
        mirror.wait_for("last")
        assert mirror.told("one") == 1
        pods.run("one", "10.0.0.2")
        mirror.wait(lambda: mirror.told("one") == 2, "new address")


def test_a_selector_leaves_out_what_other_nodes_have(
    control_plane: ControlPlane, pods: Pods
) -> None:
    pods.create("here", nodeName="node-a")
    pods.create("there", nodeName="node-b")
    with watching(control_plane.kubeconfig, selector="spec.nodeName=node-a") as mirror:
        mirror.wait_state(True)
        pods.create("there-too", nodeName="node-b")
        pods.create("here-too", nodeName="node-a")
        mirror.wait_for("here-too")
        assert mirror.names() == {"here", "here-too"}


def test_container_ids_are_kept_for_the_node_that_needs_them(
    control_plane: ControlPlane, pods: Pods
) -> None:
    for name, node in (("here", "node-a"), ("there", "node-b")):
        pods.create(name, nodeName=node)
        pods.run(name, "10.0.0.1")
    with watching(control_plane.kubeconfig, wanted=Wanted(containers_of_node="node-a")) as mirror:
        mirror.wait_state(True)
        kept = {one.meta.name: len(one.containers) for one in mirror.objects.values()}
        assert kept == {"here": 1, "there": 0}


def test_an_api_server_without_watch_list_is_read_in_pages() -> None:
    class Older(ControlPlane):
        def _api_server_argv(self, whole: bool) -> list[str]:
            return [*super()._api_server_argv(whole), "--feature-gates=WatchList=false"]

    with Older() as older:
        pods = Pods(older)
        for n in range(7):
            pods.create(f"pod-{n}")
        with watching(older.kubeconfig, timing=replace(QUICK, page=3)) as mirror:
            mirror.wait_state(True)
            assert mirror.names() == {f"pod-{n}" for n in range(7)}
            pods.delete("pod-3")
            pods.create("last")
            mirror.wait_for("last")
            assert set(mirror.objects) == set(pods.listed())
            assert mirror.lists() == 1
