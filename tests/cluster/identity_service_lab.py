"""An identity service before a real API server, in this process, and agents that read from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trustme

from retina_otel.identity_service.client import IdentityStream, StreamSettings
from retina_otel.identity_service.protocol import Keys
from retina_otel.identity_service.server import Limits
from retina_otel.identity_service.service import Options, Service
from retina_otel.identity_service.tls import ServerFiles
from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Timing
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
