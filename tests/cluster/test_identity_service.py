"""The identity service before a real API server: real watches, real tokens, a real lease."""

from __future__ import annotations

import base64
import json
import logging
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from kubernetes import client

from retina_otel.identity_service.client import IdentityStream, StreamSettings, open_channel, probe
from retina_otel.identity_service.fallback import FallBack
from retina_otel.identity_service.protocol import WATCH, Keys, Subscription
from retina_otel.identity_service.server import Limits
from retina_otel.identity_service.service import Options, Service
from retina_otel.identity_service.tls import ServerFiles
from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Timing, Wanted, Watcher
from retina_otel.kubernetes.objects import Kind
from retina_otel.testing.cluster import ControlPlane
from tests.unit.identity_service.identity_parts import Told, eventually

AUDIENCE = "retina-otel-identity"
READ = ["get", "list", "watch"]
RULES = [
    {"apiGroups": [""], "resources": ["pods", "services", "nodes", "namespaces"], "verbs": READ},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": READ},
    {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": READ},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": READ},
    {"apiGroups": ["retina.sh"], "resources": ["metricsconfigurations"], "verbs": READ},
    {
        "apiGroups": ["retina.sh"],
        "resources": ["metricsconfigurations", "metricsconfigurations/status"],
        "verbs": ["patch"],
    },
    {
        "apiGroups": ["authentication.k8s.io"],
        "resources": ["tokenreviews"],
        "verbs": ["create"],
    },
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["create", "get", "update"],
    },
]
"""What the chart grants."""
KINDS = {Kind.POD: Keys(("app",)), Kind.NAMESPACE: Keys()}
LOGGER = logging.getLogger("retina_otel.test.identity")
CRD = Path(__file__).parents[2] / "charts/retina-otel/crds/metricsconfigurations.yaml"


class Lab:
    """A service's kubeconfig, the agents' account, and TLS files."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self.folder = folder
        self.make_accounts()
        self.ca = trustme.CA()
        issued = self.ca.issue_cert("localhost", "127.0.0.1")
        self.ca_file = folder / "ca.crt"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.files = ServerFiles(str(folder / "tls.crt"), str(folder / "tls.key"))
        issued.cert_chain_pems[0].write_to_path(self.files.cert_file)
        issued.private_key_pem.write_to_path(self.files.key_file)

    def make_accounts(self) -> None:
        """Also once a store was wiped."""
        self.kubeconfig = self.plane.kubeconfig_for("identity-service", RULES)
        self.plane.set_rights("agent", [])
        self.plane.set_rights("stranger", [])

    def token(self, account: str = "agent", audience: str = AUDIENCE) -> str:
        audiences = [audience] if audience else []
        return self.plane.token_for(account, audiences=audiences, lifetime_s=600)

    def options(self, **changed: Any) -> Options:
        options = Options(
            listen="127.0.0.1:0",
            health="127.0.0.1:0",
            tls=self.files,
            service_accounts=["default/agent"],
            labels=["app"],
            limits=Limits(batch_s=0.02, heartbeat_s=1.0),
            timing=Timing(phase_s=0.0, nap_s=0.0, retry_first_s=0.05, retry_most_s=0.2),
        )
        return replace(options, **changed)

    @contextmanager
    def service(self, **changed: Any) -> Iterator[Service]:
        access = Access.from_settings(self.kubeconfig, None)
        running = Service(self.options(**changed), access, LOGGER)
        running.start()
        try:
            eventually(lambda: not running.sources.unsynced())
            yield running
        finally:
            running.stop()

    def settings(self, service: Service, token: str = "", **changed: Any) -> StreamSettings:
        file = self.folder / f"token-{time.monotonic_ns()}"
        file.write_text(token or self.token())
        given: dict[str, Any] = {
            "kinds": KINDS,
            "token_file": str(file),
            "ca_file": str(self.ca_file),
            "phase_s": 0.0,
            "retry_first_s": 0.05,
            "retry_most_s": 0.2,
        }
        return StreamSettings(f"localhost:{service.server.port}", **given | changed)

    @contextmanager
    def reading(self, settings: StreamSettings) -> Iterator[Told]:
        told = Told()
        stream = IdentityStream(settings, told.on_change, told.on_state)
        stream.start()
        try:
            yield told
        finally:
            stream.stop()


@pytest.fixture
def lab(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Lab]:
    yield Lab(control_plane, tmp_path)
    delete_pods(control_plane)


def make_pods(plane: ControlPlane, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        body = {
            "metadata": {"name": name, "labels": {"app": name, "other": "x"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
        }
        plane.core().create_namespaced_pod("default", body)
        address = f"10.1.{number >> 8}.{number & 255}"
        status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
        plane.core().patch_namespaced_pod_status(name, "default", status)


def delete_pods(plane: ControlPlane) -> None:
    plane.core().delete_collection_namespaced_pod("default", grace_period_seconds=0)


def addresses(told: Told) -> dict[str, tuple[str, ...]]:
    return {one.meta.name: one.addresses for one in told.pods().values()}


def listed(plane: ControlPlane) -> dict[str, tuple[str, ...]]:
    """By the official client, as the truth to compare with."""
    return {
        one.metadata.name: tuple(each.ip for each in one.status.pod_ips or ())
        for one in plane.core().list_pod_for_all_namespaces().items
    }


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


def forged(token: str) -> str:
    """The same claims under another signature."""
    head, body, signature = token.split(".")
    other = ("A" if signature[0] != "A" else "B") + signature[1:]
    return f"{head}.{body}.{other}"


def expired(token: str) -> str:
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims["exp"] = int(time.time()) - 1
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"{head}.{text}.{signature}"


@pytest.mark.parametrize(
    ("token_of", "code", "reason"),
    [
        pytest.param(lambda lab: None, "UNAUTHENTICATED", "no_token", id="no token"),
        pytest.param(lambda lab: "garbage", "UNAUTHENTICATED", "invalid_token", id="no JWT"),
        pytest.param(
            lambda lab: lab.token(audience=""), "UNAUTHENTICATED", "invalid_token", id="audience"
        ),
        pytest.param(
            lambda lab: lab.token("stranger"), "PERMISSION_DENIED", "foreign_account", id="account"
        ),
        pytest.param(
            lambda lab: forged(lab.token()), "UNAUTHENTICATED", "invalid_token", id="signature"
        ),
        pytest.param(
            lambda lab: expired(lab.token()), "UNAUTHENTICATED", "invalid_token", id="expired"
        ),
    ],
)
def test_whoever_is_no_agent_gets_nothing(
    lab: Lab,
    token_of: Callable[[Lab], str | None],
    code: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_pods(lab.plane, ["a"])
    token = token_of(lab)
    with lab.service() as service:
        settings = lab.settings(service)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        subscription = Subscription({kind.value: keys for kind, keys in KINDS.items()})
        for _ in range(2):
            with open_channel(settings) as channel:
                call = channel.unary_stream(WATCH)(subscription.serialize(), metadata=metadata)
                frames: list[bytes] = []
                with pytest.raises(grpc.RpcError) as refused:
                    frames.extend(call)
            assert refused.value.code().name == code
            assert frames == []
        assert service.counters.value("refusals_total", reason) == 2
        assert [
            label for family, label in service.counters.labels() if family == "frames_sent_total"
        ] == []
    told = [one.getMessage() for one in caplog.records if "gets nothing" in one.getMessage()]
    assert len(told) == 1
    assert not any(token and token[:20] in line for line in told)


def test_an_agent_with_another_ca_does_not_show_its_token(lab: Lab) -> None:
    other = lab.folder / "other-ca.crt"
    trustme.CA().cert_pem.write_to_path(str(other))
    with lab.service() as service:
        settings = lab.settings(service, ca_file=str(other))
        assert "UNAVAILABLE" in probe(settings)
        # What the service counts of its own watches comes when a batch is due; of agents, nothing.
        of_watches = {("batches_total", ""), ("changed_objects_total", "")}
        assert set(service.counters.labels()) - of_watches == set()


def test_answers_about_a_token_are_kept(lab: Lab) -> None:
    with lab.service() as service:
        settings = lab.settings(service)
        assert [probe(settings) for _ in range(5)] == [""] * 5
        assert service.counters.value("token_reviews_total") == 1


def test_a_stream_ends_when_its_account_is_deleted(lab: Lab) -> None:
    limits = Limits(batch_s=0.02, heartbeat_s=1.0, review_s=0.2)
    with (
        lab.service(limits=limits) as service,
        lab.reading(lab.settings(service)) as told,
    ):
        told.synced()
        lab.plane.core().delete_namespaced_service_account("agent", "default")
        told.wait(lambda: "UNAUTHENTICATED" in told.states[-1].reason)
        assert ("refusals_total", "invalid_token") in service.counters.labels()
        eventually(lambda: service.server.streams == 0)


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
