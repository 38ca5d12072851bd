"""Rights, credentials and ways to the API server: what is missing is named."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
import yaml

from retina_otel.kubernetes.api.access import Access, AccessError
from retina_otel.testing.cluster import ControlPlane
from tests.cluster.mirror import QUICK, watching
from tests.cluster.objects import READ_PODS, with_user
from tests.cluster.pods import Pods


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
