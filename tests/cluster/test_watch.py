"""A watcher tells exactly what the API server has, through every failure of it or its store."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
import yaml

from retina_otel.kubernetes.access import Access, AccessError
from retina_otel.kubernetes.resources import RESOURCES
from retina_otel.kubernetes.watch import Kind, Wanted
from retina_otel.testing.cluster import ControlPlane
from tests.cluster.mirror import QUICK, reduced, watching
from tests.cluster.objects import EVERYTHING, READ_PODS, pod, status, with_user

EVERY_KEY = Wanted(
    frozenset({"app", "team", "topology.kubernetes.io/zone"}), frozenset({"retina.sh"})
)


class Pods:
    """Makes pods with the API, and lists them with it."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._access = Access.from_settings(control_plane.kubeconfig)
        self._path = "/api/v1/namespaces/default/pods"

    def create(self, name: str, **spec: object) -> str:
        made = self._access.post(self._path, pod(name, **spec))
        uid: str = made["metadata"]["uid"]
        return uid

    def patch(self, name: str, body: object, part: str = "") -> None:
        with self._access.session() as session:
            session.request(
                "PATCH",
                f"{self._path}/{name}{part}",
                body=body,
                content_type="application/merge-patch+json",
            )

    def run(self, name: str, address: str) -> None:
        """As a kubelet would say that it runs."""
        self.patch(name, {"status": status(address)}, "/status")

    def delete(self, name: str, grace_s: int = 0) -> None:
        with self._access.session() as session:
            session.request("DELETE", f"{self._path}/{name}", body={"gracePeriodSeconds": grace_s})

    def listed(self) -> dict[str, str]:
        """Resource versions by uid, of all that are there."""
        answer = json.loads(self._access.get("/api/v1/pods"))
        return {
            one["metadata"]["uid"]: one["metadata"]["resourceVersion"] for one in answer["items"]
        }

    def names(self) -> set[str]:
        answer = json.loads(self._access.get("/api/v1/pods"))
        return {one["metadata"]["name"] for one in answer["items"]}

    def clear(self) -> None:
        for name in self.names():
            self.delete(name)


@pytest.fixture
def pods(control_plane: ControlPlane) -> Iterator[Pods]:
    made = Pods(control_plane)
    yield made
    made.clear()


# ------------------------------------------------------------------------------------ what is told


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


# ---------------------------------------------------------------------------------------- failures


def test_a_watch_that_the_api_server_ends_goes_on_where_it_was(
    control_plane: ControlPlane, pods: Pods
) -> None:
    timing = replace(QUICK, watch_s=1.0, lasting_s=0.5)
    with watching(control_plane.kubeconfig, timing=timing) as mirror:
        mirror.wait_state(True)
        for n in range(3):
            pods.create(f"pod-{n}")
            wait_for_an_ended_watch(control_plane)
        pods.create("last")
        mirror.wait_for("last")
        assert set(mirror.objects) == set(pods.listed())
        assert [mirror.told(f"pod-{n}") for n in range(3)] == [1, 1, 1]
        assert mirror.lists() == 1


def wait_for_an_ended_watch(control_plane: ControlPlane) -> None:
    access = Access.from_settings(control_plane.kubeconfig)

    def ended() -> int:
        """How many watches of all pods the API server has served to their end."""
        lines = access.get("/metrics", accept="*/*").decode().splitlines()
        wanted = ('resource="pods"', 'verb="WATCH"', 'scope="cluster"')
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in lines
            if line.startswith("apiserver_request_total{") and all(one in line for one in wanted)
        )

    before = ended()
    control_plane.wait_for(lambda: ended() > before, what="ended watch")


def test_it_goes_on_after_a_restart_of_the_api_server(
    control_plane: ControlPlane, pods: Pods
) -> None:
    pods.create("before")
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        seen = len(mirror.states)
        control_plane.stop_api_server(kill=True)
        away = mirror.wait_state(False, "away", after=seen)
        assert control_plane.url in away.reason
        assert mirror.names() == {"before"}
        control_plane.start_api_server()
        pods.delete("before")
        pods.create("after")
        mirror.wait(lambda: mirror.names() == {"after"}, "change after the restart")
        assert set(mirror.objects) == set(pods.listed())


def test_when_history_is_gone_the_list_is_read_again(
    control_plane: ControlPlane, pods: Pods
) -> None:
    pods.create("before")
    with (
        watching(control_plane.kubeconfig) as mirror,
        watching(control_plane.kubeconfig, Kind.NAMESPACE) as writer,
    ):
        mirror.wait_state(True)
        writer.wait_state(True)
        # The watch of pods hears nothing of these revisions.
        for n in range(3):
            control_plane.kubectl("create", "namespace", f"gone-{n}")
        control_plane.compact()
        mirror.wait(lambda: mirror.lists() == 2, "second list")
        assert any("410" in each.reason or "too old" in each.reason for each in mirror.states)
        pods.create("after")
        mirror.wait_for("after")
        assert set(mirror.objects) == set(pods.listed())
        control_plane.kubectl(
            "delete", "namespace", *(f"gone-{n}" for n in range(3)), "--wait=false"
        )


def test_nothing_of_a_wiped_store_is_left(control_plane: ControlPlane, pods: Pods) -> None:
    for n in range(5):
        pods.create(f"pod-{n}")
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        control_plane.wipe_store()
        mirror.wait(lambda: mirror.lists() == 2, "second list")
        assert mirror.names() == set()
        gone = {one.meta.name for one in mirror.changes[-1].deleted}
        assert gone == {f"pod-{n}" for n in range(5)}
        Pods(control_plane).create("after")
        mirror.wait_for("after")
        assert set(mirror.objects) == set(pods.listed())


def test_after_an_older_store_is_restored_what_it_has_is_told(
    control_plane: ControlPlane, pods: Pods, tmp_path: Path
) -> None:
    pods.create("kept")
    copy = control_plane.save_store(tmp_path / "copy")
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        pods.delete("kept")
        for n in range(20):
            pods.create(f"lost-{n}")
        mirror.wait_for("lost-19")
        control_plane.restore_store(copy)
        mirror.wait(lambda: mirror.names() == {"kept"}, "older state")
        assert set(mirror.objects) == set(pods.listed())
        assert any("another store" in each.reason for each in mirror.states)


def test_an_api_server_that_says_nothing_is_given_up(
    control_plane: ControlPlane, pods: Pods
) -> None:
    pods.create("before")
    timing = replace(QUICK, stale_s=0.5, connect_s=0.5)
    with watching(control_plane.kubeconfig, timing=timing) as mirror:
        mirror.wait_state(True)
        with frozen(control_plane):
            seen = len(mirror.states)
            mirror.wait_state(False, "nothing came", after=seen)
        pods.create("after")
        mirror.wait_for("after")
        assert set(mirror.objects) == set(pods.listed())


@contextmanager
def frozen(control_plane: ControlPlane) -> Iterator[None]:
    """The API server's connections stay open, and nothing comes from them."""
    pid = control_plane.api_server_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


BOUNDS = [0.2, 0.4, 0.4, 0.4, 0.4]
"""Each wait is at least half of one that doubles, up to the longest."""


def test_an_api_server_that_hangs_up_is_asked_less_and_less_often(
    control_plane: ControlPlane, pods: Pods
) -> None:
    url = urlsplit(control_plane.url)
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        control_plane.stop_api_server(kill=True)
        arrivals = []
        with socket.create_server(("127.0.0.1", url.port or 0), reuse_port=True) as server:
            for _ in range(6):
                connection, _ = server.accept()
                arrivals.append(time.monotonic())
                connection.close()
        waits = [later - one for one, later in pairwise(arrivals)]
        # A wait of the first kind has passed before the first arrival.
        assert [wait < 0.5 * bound for wait, bound in zip(waits, BOUNDS, strict=True)] == [
            False
        ] * 5
        control_plane.start_api_server()
        pods.create("after")
        mirror.wait_for("after")


# ------------------------------------------------------------------------------------------ rights


def test_a_missing_right_is_named_and_granting_it_is_enough(
    control_plane: ControlPlane, pods: Pods
) -> None:
    pods.create("one")
    kubeconfig = control_plane.kubeconfig_for("reader", [])
    with watching(kubeconfig) as mirror:
        state = mirror.wait_state(False)
        assert "We may not watch pods" in state.reason
        assert "Grant `watch pods`" in state.reason
        control_plane.set_rights("reader", [READ_PODS])
        mirror.wait_for("one")


def test_a_right_that_is_taken_away_shows_when_the_watch_is_opened_again(
    control_plane: ControlPlane, pods: Pods
) -> None:
    kubeconfig = control_plane.kubeconfig_for("demoted", [READ_PODS])
    with watching(kubeconfig, timing=replace(QUICK, watch_s=1.0)) as mirror:
        mirror.wait_state(True)
        control_plane.set_rights("demoted", [])
        mirror.wait_state(False, "We may not list pods")


def test_a_token_that_is_replaced_in_its_file_is_used(
    control_plane: ControlPlane, pods: Pods, tmp_path: Path
) -> None:
    control_plane.set_rights("rotated", [READ_PODS])
    token = tmp_path / "token"
    token.write_text(control_plane.token_for("rotated"))
    kubeconfig = with_user(control_plane, tmp_path / "kubeconfig", {"tokenFile": "token"})
    with watching(kubeconfig, timing=replace(QUICK, watch_s=1.0)) as mirror:
        mirror.wait_state(True)
        # A ServiceAccount made again is another one: the old token is of no use.
        control_plane.kubectl("delete", "serviceaccount", "rotated")
        control_plane.set_rights("rotated", [READ_PODS])
        refused = mirror.wait_state(False, "does not know us")
        assert token.read_text() not in refused.reason
        token.write_text(control_plane.token_for("rotated"))
        pods.create("after")
        mirror.wait_for("after")


def test_a_plugin_is_asked_for_a_token_and_asked_again_when_it_expires(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    control_plane.set_rights("plugged", [READ_PODS])
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {
            "token": control_plane.token_for("plugged"),
            "expirationTimestamp": "2020-01-01T00:00:00Z",
        },
    }
    (tmp_path / "credential").write_text(json.dumps(credential))
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", f"echo >> {tmp_path}/asked; cat {tmp_path}/credential"],
            "interactiveMode": "Never",
        }
    }
    kubeconfig = with_user(control_plane, tmp_path / "kubeconfig", user)
    access = Access.from_settings(kubeconfig)
    assert json.loads(access.get("/api/v1/pods"))["items"] == []
    assert (tmp_path / "asked").read_text() == "\n"


def test_an_api_server_that_another_ca_vouches_for_is_not_spoken_with(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    cluster.pop("certificate-authority", None)
    other = base64.b64encode(trustme.CA().cert_pem.bytes()).decode()
    kubeconfig.write_text(yaml.safe_dump(_with(config, {"certificate-authority-data": other})))
    with pytest.raises(AccessError, match="is not trusted") as refused:
        Access.from_settings(kubeconfig).get("/version")
    assert "certificate-authority" in refused.value.remedy

    kubeconfig.write_text(yaml.safe_dump(_with(config, {"insecure-skip-tls-verify": True})))
    version = json.loads(Access.from_settings(kubeconfig).get("/version"))
    assert version["gitVersion"] == "v1.34.4"


def test_a_proxy_carries_what_goes_to_the_api_server(
    control_plane: ControlPlane, pods: Pods, tmp_path: Path
) -> None:
    pods.create("one")
    with proxy() as (url, asked):
        config = yaml.safe_load(control_plane.kubeconfig.read_text())
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(_with(config, {"proxy-url": url})))
        with watching(kubeconfig) as mirror:
            mirror.wait_for("one")
    host = urlsplit(control_plane.url).netloc
    assert set(asked) == {f"CONNECT {host}"}


def _with(config: dict[str, Any], cluster: dict[str, object]) -> dict[str, Any]:
    [one] = config["clusters"]
    return {**config, "clusters": [{**one, "cluster": {**one["cluster"], **cluster}}]}


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """An HTTP proxy that tunnels, and what it was asked for."""
    asked: list[str] = []
    threads: list[threading.Thread] = []

    def begin(target: Callable[..., None], *args: object) -> threading.Thread:
        threads.append(threading.Thread(target=target, args=args))
        threads[-1].start()
        return threads[-1]

    def pipe(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(1)
            method, target, _ = head.splitlines()[0].decode().split()
            asked.append(f"{method} {target}")
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = begin(pipe, server, client)
                pipe(client, server)
                back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                begin(serve, listening.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = begin(accept)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join()
        for thread in threads:
            thread.join()
