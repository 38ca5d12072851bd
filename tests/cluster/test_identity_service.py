"""The identity service before a real API server: what it tells, real watches, a real lease."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from kubernetes import client

from retina_otel.identity_service.client import StreamSettings
from retina_otel.identity_service.fallback import FallBack
from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Timing, Wanted, Watcher
from retina_otel.testing.cluster import ControlPlane
from tests.cluster.identity_service_lab import (
    CRD,
    KINDS,
    Lab,
    addresses,
    delete_pods,
    listed,
    make_pods,
)
from tests.unit.identity_service.identity_parts import Told, eventually


@pytest.fixture
def lab(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Lab]:
    yield Lab(control_plane, tmp_path)
    delete_pods(control_plane)


def test_an_agent_is_told_what_the_api_server_has(lab: Lab) -> None:
    make_pods(lab.plane, ["a", "b", "c"])
    with lab.service() as service, lab.reading(lab.settings(service)) as told:
        told.synced()
        assert addresses(told) == listed(lab.plane)
        assert {one.meta.labels["app"] for one in told.pods().values()} == {"a", "b", "c"}
        lab.plane.core().delete_namespaced_pod("b", "default", grace_period_seconds=0)
        make_pods(lab.plane, ["d"])
        told.wait(
            lambda: (
                addresses(told) == {"a": ("10.1.0.0",), "c": ("10.1.0.2",)} | {"d": ("10.1.0.0",)}
            )
        )
        assert addresses(told) == listed(lab.plane)


def test_a_wiped_store_is_told_anew(lab: Lab) -> None:
    make_pods(lab.plane, ["old-1", "old-2"])
    with ExitStack() as stack:
        service = stack.enter_context(lab.service())
        token = lab.folder / "rotating"
        token.write_text(lab.token())
        settings = lab.settings(service, token_file=str(token))
        told = stack.enter_context(lab.reading(settings))
        told.synced()
        before = service.store.position
        assert set(addresses(told)) == {"old-1", "old-2"}
        lab.plane.wipe_store()
        lab.make_accounts()
        token.write_text(lab.token())
        make_pods(lab.plane, ["new"])
        told.wait(lambda: addresses(told) == {"new": ("10.1.0.0",)}, 60)
        assert addresses(told) == listed(lab.plane)
        # Pods may be heard of before the namespace that tells the cluster.
        told.wait(lambda: service.store.position[:2] != before[:2], 60)


class Watches:
    """The agent's own watches, as the `kubernetes` extension makes them."""

    def __init__(self, access: Access, told: Told) -> None:
        self._watchers = [
            Watcher(
                access,
                kind,
                on_change=told.on_change,
                on_state=lambda state: None,
                wanted=Wanted(frozenset(keys.labels)),
                timing=Timing(phase_s=0.0, nap_s=0.0),
            )
            for kind, keys in KINDS.items()
        ]

    def start(self) -> None:
        for watcher in self._watchers:
            watcher.start()

    def stop(self) -> None:
        for watcher in self._watchers:
            watcher.stop()


def test_while_the_service_is_away_the_agent_asks_the_api_server(lab: Lab) -> None:
    make_pods(lab.plane, ["a"])
    told = Told()
    without = watches(lab.plane, "pods")
    with lab.service() as first:
        settings = lab.settings(first)
        listen = f"127.0.0.1:{first.server.port}"
        source = FallBack(
            settings,
            told.on_change,
            told.on_state,
            in_its_place=lambda: Watches(Access.from_settings(lab.kubeconfig, None), told),
            after_s=0.2,
        )
        source.start()
        told.synced()
        assert addresses(told) == {"a": ("10.1.0.0",)}
    try:
        make_pods(lab.plane, ["b", "c"])
        told.wait(lambda: addresses(told) == listed(lab.plane))
        assert watches(lab.plane, "pods") == without + 1
        with lab.service(listen=listen) as second:
            eventually(lambda: second.server.streams == 1)
            told.synced()
            # The service's own watch is the only one left.
            eventually(lambda: watches(lab.plane, "pods") == without + 1)
            lab.plane.core().delete_namespaced_pod("b", "default", grace_period_seconds=0)
            told.wait(lambda: "b" not in addresses(told))
            assert addresses(told) == listed(lab.plane)
            source.stop()
    finally:
        source.stop()


def watches(plane: ControlPlane, resource: str) -> int:
    text = plane.kubectl("get", "--raw", "/metrics").stdout
    lines = [
        line
        for line in text.splitlines()
        if line.startswith("apiserver_longrunning_requests{")
        and f'resource="{resource}"' in line
        and 'verb="WATCH"' in line
    ]
    return sum(int(line.rpartition(" ")[2]) for line in lines)


def test_many_agents_cost_the_api_server_no_further_watch(lab: Lab) -> None:
    make_pods(lab.plane, ["a", "b"])
    without = watches(lab.plane, "pods")
    with ExitStack() as stack:
        service = stack.enter_context(lab.service())
        settings = lab.settings(service)
        tolds = [stack.enter_context(lab.reading(settings)) for _ in range(20)]
        for told in tolds:
            told.synced()
            assert addresses(told) == listed(lab.plane)
        assert service.server.streams == 20
        assert watches(lab.plane, "pods") == without + 1


def test_one_replica_leads_and_another_takes_over_at_once(lab: Lab) -> None:
    with lab.service(lease="default/identity", identity="one") as one:
        assert one.leader is not None
        eventually(lambda: one.leader is not None and one.leader.leading)
        with lab.service(lease="default/identity", identity="two") as two:
            assert two.leader is not None
            eventually(lambda: holder(lab.plane) == "one")
            assert not two.leader.leading
            one.leader.stop()
            assert holder(lab.plane) in ("", "two")
            eventually(lambda: two.leader is not None and two.leader.leading)
            assert holder(lab.plane) == "two"


def holder(plane: ControlPlane) -> str:
    lease = client.CoordinationV1Api(plane.client()).read_namespaced_lease("identity", "default")
    return str(lease.spec.holder_identity or "")


WRONG = """
apiVersion: retina.sh/v1alpha1
kind: MetricsConfiguration
metadata: {name: wrong}
spec:
  contextOptions:
    - {metricName: no_such_metric}
  namespaces: {include: [default]}
"""


def test_the_leader_says_in_the_status_what_is_wrong(lab: Lab) -> None:
    lab.plane.apply(CRD)
    try:
        lab.plane.wait_for(
            lambda: lab.plane.kubectl("get", "metricsconfigurations").returncode == 0, what="kind"
        )
        lab.plane.apply(WRONG)
        with lab.service(lease="default/identity-2", identity="one"):
            status = lab.plane.wait_for(
                lambda: json.loads(
                    lab.plane.kubectl("get", "metricsconfiguration", "wrong", "-ojson").stdout
                ).get("status"),
                what="status",
            )
        assert status["state"] in ("Warning", "Errored")
        assert "spec.contextOptions[0].metricName" in status["reason"]
    finally:
        lab.plane.delete(CRD)


def test_the_command_serves_answers_probes_and_ends_on_sigterm(lab: Lab) -> None:
    make_pods(lab.plane, ["a"])
    arguments = [
        *("--kubeconfig", str(lab.kubeconfig), "--listen", "127.0.0.1:0"),
        *("--health", "127.0.0.1:0", "--label", "app", "--batch", "20ms"),
        *("--tls-cert", lab.files.cert_file, "--tls-key", lab.files.key_file),
        *("--allow-service-account", "default/agent"),
    ]
    log = lab.folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "retina_otel", "identity-service", *arguments], stderr=stream
        )
    try:
        pattern = r"listening at \S+, port (\d+); health at port (\d+)"
        eventually(lambda: re.search(pattern, log.read_text()) is not None)
        found = re.search(pattern, log.read_text())
        assert found is not None
        port, health = found.groups()
        eventually(lambda: get(health, "/readyz") == (200, "ok\n"))
        assert get(health, "/livez") == (200, "ok\n")
        assert get(health, "/nothing")[0] == 404
        token = lab.folder / "token"
        token.write_text(lab.token())
        settings = StreamSettings(
            f"localhost:{port}", KINDS, token_file=str(token), ca_file=str(lab.ca_file), phase_s=0.0
        )
        with lab.reading(settings) as told:
            told.synced()
            assert addresses(told) == listed(lab.plane)
            text = get(health, "/metrics")[1]
        assert "\nretina_otel_identity_service_streams 1\n" in text
        assert '\nretina_otel_identity_service_objects{kind="pods"} 1\n' in text
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def get(port: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
