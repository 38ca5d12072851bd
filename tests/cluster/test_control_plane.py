"""The control plane of the tests is a real one, and its faults are those of a real one."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kubernetes import client

from retina_otel.testing.cluster import ControlPlane

READ_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}


def add_config_map(control_plane: ControlPlane, name: str) -> int:
    """Makes an object, and with it a revision. Returns the revision."""
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name))
    made = control_plane.core().create_namespaced_config_map("default", body)
    return int(made.metadata.resource_version)


def config_maps(control_plane: ControlPlane) -> set[str]:
    listed = control_plane.core().list_namespaced_config_map("default").items
    return {each.metadata.name for each in listed} - {"kube-root-ca.crt"}


def watch_status(control_plane: ControlPlane, revision: int) -> str:
    """The first line of a watch that starts at a revision; empty if nothing comes in a second."""
    answer = control_plane.core().list_namespaced_config_map(
        "default",
        watch=True,
        resource_version=str(revision),
        timeout_seconds=1,
        _preload_content=False,
    )
    try:
        return next((line.decode() for line in answer.stream()), "")
    finally:
        answer.release_conn()


def test_it_is_the_version_that_was_built(control_plane: ControlPlane) -> None:
    version = client.VersionApi(control_plane.client()).get_code()
    assert version.git_version == "v1.34.4"


def test_a_service_account_may_do_what_its_rules_say_and_nothing_else(
    control_plane: ControlPlane,
) -> None:
    kubeconfig = control_plane.kubeconfig_for("reader", [READ_PODS])
    core = client.CoreV1Api(control_plane.client(kubeconfig))

    assert core.list_pod_for_all_namespaces().items == []
    with pytest.raises(client.ApiException) as refused:
        core.list_node()
    assert refused.value.status == 403


def test_rights_can_be_taken_away_later(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.kubeconfig_for("demoted", [READ_PODS])
    core = client.CoreV1Api(control_plane.client(kubeconfig))
    core.list_pod_for_all_namespaces()

    control_plane.set_rights("demoted", [])

    def refused() -> bool:
        try:
            core.list_pod_for_all_namespaces()
        except client.ApiException as error:
            return error.status == 403
        return False

    assert control_plane.wait_for(refused, what="refusal")


def test_a_stopped_api_server_refuses_connections_until_it_is_started(
    control_plane: ControlPlane,
) -> None:
    port = urlsplit(control_plane.url).port
    control_plane.stop_api_server()
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    finally:
        control_plane.start_api_server()
    assert "default" in {n.metadata.name for n in control_plane.core().list_namespace().items}


def test_after_a_compaction_a_watch_of_an_older_revision_is_gone(
    control_plane: ControlPlane,
) -> None:
    old = add_config_map(control_plane, "before-compaction")
    for number in range(3):
        add_config_map(control_plane, f"compacted-{number}")

    control_plane.compact()

    assert '"code":410' in watch_status(control_plane, old)


def test_a_restored_store_knows_only_what_was_saved_and_its_revision_goes_back(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    add_config_map(control_plane, "saved")
    saved = control_plane.save_store(tmp_path / "store")
    revision = max(add_config_map(control_plane, f"lost-{number}") for number in range(50))

    control_plane.restore_store(saved)

    assert "saved" in config_maps(control_plane)
    assert not {name for name in config_maps(control_plane) if name.startswith("lost-")}
    assert control_plane.revision() < revision


def test_a_wiped_store_is_empty_and_a_watch_of_the_old_revision_is_silent(
    control_plane: ControlPlane,
) -> None:
    revision = max(add_config_map(control_plane, f"wiped-{number}") for number in range(100))

    control_plane.wipe_store()

    assert config_maps(control_plane) == set()
    assert control_plane.revision() < revision
    assert watch_status(control_plane, revision) == ""
