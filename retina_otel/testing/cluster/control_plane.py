"""A control plane: etcd and kube-apiserver, and for a whole cluster the controllers and scheduler.

On its own it listens on the machine's loopback. As part of a cluster it runs in a network
namespace, with an address that nodes reach; this process then reaches it by forwarded ports.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from retina_otel.errors import RetinaError
from retina_otel.testing.cluster import forward
from retina_otel.testing.cluster.access import Access
from retina_otel.testing.cluster.binaries import binary
from retina_otel.testing.cluster.credentials import Authority
from retina_otel.testing.cluster.ground import Ground, free_ports
from retina_otel.testing.cluster.process import Process
from retina_otel.testing.cluster.store import Store
from retina_otel.testing.namespaces import Namespace

START_SECONDS = 60
SERVICE_CIDRS = ("10.96.0.0/16", "fd00:10:96::/112")
ISSUER = "https://kubernetes.default.svc.cluster.local"
"""Of ServiceAccount tokens, and their audience."""


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace for a control plane, and its address there."""

    namespace: Namespace
    address: str


class ControlPlane(Access):
    """etcd and kube-apiserver. Ready inside a `with` block; nothing is left after it.

    There are no controllers: no ServiceAccounts come by themselves, and pods need none.
    """

    def __init__(self) -> None:
        self.ground = Ground()
        self._build(None)

    def _build(self, place: Place | None) -> None:
        ground, add = self.ground, self.ground.processes.add
        self.authority = Authority(ground.folder / "pki")
        if place is None:
            enter: list[str] = []
            self._address = "127.0.0.1"
            self._port, etcd_port, peer_port = free_ports(3)
            host_port, host_etcd_port = self._port, etcd_port
        else:
            enter = ["nsenter", f"--net={place.namespace.path}", "--"]
            self._address = place.address
            self._port, etcd_port, peer_port = 6443, 2379, 2380
            host_port, host_etcd_port = self._forward(
                enter, f"{place.address}:{self._port}", f"127.0.0.1:{etcd_port}"
            )
        self.url = f"https://127.0.0.1:{host_port}"
        self.inner_url = f"https://{self._address}:{self._port}"
        self.store = Store(
            ground.processes,
            ground.folder / "etcd",
            port=etcd_port,
            peer_port=peer_port,
            endpoint=f"127.0.0.1:{host_etcd_port}",
            enter=enter,
        )
        super().__init__(ground.folder / "kubeconfigs")
        whole = place is not None
        self._api_server = add("kube-apiserver", [*enter, *self._api_server_argv(whole)])
        self._controllers: list[Process] = []
        if whole:
            self._controllers = [
                add("kube-controller-manager", [*enter, *self._controller_manager_argv()]),
                add("kube-scheduler", [*enter, *self._scheduler_argv()]),
            ]

    def start(self) -> None:
        """Returns when the API server is ready."""
        self.store.start()
        self.start_api_server()

    def start_controllers(self) -> None:
        """Starts the controller manager and the scheduler of a whole cluster."""
        for each in self._controllers:
            each.start()

    def close(self) -> None:
        """Ends everything and leaves nothing."""
        self.close_clients()
        self.ground.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def logs(self) -> str:
        return self.ground.processes.tails()

    # ----------------------------------------------------------------------------------- faults

    def start_api_server(self) -> None:
        """Returns when it is ready."""
        self._api_server.start()
        self.wait_for_api_server()

    def wait_for_api_server(self) -> None:
        """Returns when the API server, which was started, is ready."""
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        admin = self.authority.client("readiness", "system:masters")
        context.load_cert_chain(admin.certificate, admin.key)
        deadline = time.monotonic() + START_SECONDS
        while not self._ready(context):
            self._api_server.require_running()
            if time.monotonic() > deadline:
                raise RetinaError(f"the API server is not ready:\n{self._api_server.tail()}")
            time.sleep(0.05)

    def stop_api_server(self, *, kill: bool = False) -> None:
        """Ends the API server: connections to it are refused. With `kill` as a crash would."""
        if kill:
            self._api_server.kill()
        else:
            self._api_server.stop()

    @property
    def api_server_pid(self) -> int:
        """To freeze it, and to read what it costs. Raises RetinaError if it does not run."""
        return self._api_server.pid

    def revision(self) -> int:
        """The store's newest revision, as the API server tells it."""
        namespaces: Any = self.core().list_namespace(limit=1)
        return int(namespaces.metadata.resource_version)

    def compact(self) -> None:
        """Makes the store forget all history up to now, and the API server with it.

        A watch that asks for an older resourceVersion is answered with 410 afterwards.
        """
        self.store.compact(self.revision())
        # The API server remembers recent changes by itself until it is started again.
        self.stop_api_server(kill=True)
        self.start_api_server()

    def save_store(self, folder: Path) -> Path:
        """Copies the store to a folder that must not exist; the API server restarts meanwhile."""
        self._with_store_stopped(lambda: self.store.copy_to(folder))
        return folder

    def restore_store(self, folder: Path) -> None:
        """Goes back to a saved store: revisions go back too."""
        self._with_store_stopped(lambda: self.store.replace_by(folder))

    def wipe_store(self) -> None:
        """Goes back to an empty store: revisions start again at 1."""
        self._with_store_stopped(lambda: self.store.replace_by(None))

    def _with_store_stopped(self, change: Callable[[], None]) -> None:
        self.stop_api_server(kill=True)
        self.store.stop()
        change()
        self.store.start()
        self.start_api_server()

    # -------------------------------------------------------------------------------- arguments

    def _forward(self, enter: Sequence[str], *targets: str) -> list[int]:
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in targets]
        pairs = [f"{each.fileno()}={to}" for each, to in zip(listening, targets, strict=True)]
        # By path, not as a module: it needs nothing of the package, which is large.
        argv = [*enter, sys.executable, forward.__file__, *pairs]
        process = self.ground.processes.add("forward", argv)
        process.start(pass_fds=[each.fileno() for each in listening])
        ports = [each.getsockname()[1] for each in listening]
        for each in listening:
            each.close()
        return ports

    def _ready(self, context: ssl.SSLContext) -> bool:
        port = int(self.url.rpartition(":")[2])
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _api_server_argv(self, whole: bool) -> list[str]:
        pki = self.authority
        serving = pki.server(
            "kube-apiserver",
            *{self._address, "127.0.0.1"},
            "10.96.0.1",
            "kubernetes.default.svc.cluster.local",
            "kubernetes.default.svc",
            "kubernetes",
            "localhost",
        )
        to_kubelet = pki.client("kube-apiserver-kubelet-client", "system:masters")
        return [
            binary("kube-apiserver"),
            f"--etcd-servers={self.store.url}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            f"--secure-port={self._port}",
            f"--cert-dir={self.ground.folder / 'pki'}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={pki.certificate}",
            f"--kubelet-client-certificate={to_kubelet.certificate}",
            f"--kubelet-client-key={to_kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            f"--service-cluster-ip-range={','.join(SERVICE_CIDRS)}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={pki.service_account_key}",
            f"--service-account-signing-key-file={pki.service_account_key}",
            *(
                # API server's own address becomes the endpoint of the Service kubernetes.
                ["--enable-admission-plugins=NodeRestriction", "--enable-aggregator-routing"]
                if whole
                else [
                    "--disable-admission-plugins=ServiceAccount",
                    "--endpoint-reconciler-type=none",
                ]
            ),
        ]

    def _controller_manager_argv(self) -> list[str]:
        config = self.kubeconfig_of_user(
            "system:kube-controller-manager", "system:masters", inner=True
        )
        return [
            binary("kube-controller-manager"),
            f"--kubeconfig={config}",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.authority.service_account_key}",
            f"--root-ca-file={self.authority.certificate}",
        ]

    def _scheduler_argv(self) -> list[str]:
        config = self.kubeconfig_of_user("system:kube-scheduler", inner=True)
        return [
            binary("kube-scheduler"),
            f"--kubeconfig={config}",
            "--leader-elect=false",
            "--secure-port=0",
        ]
