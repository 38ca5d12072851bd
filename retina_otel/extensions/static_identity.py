"""`static_identity`: pods, services, nodes, networks from a YAML file, read again when it changes.

For plain hosts, tests and demos; where there is an API server, `kubernetes` does the same. A file
that is wrong when the agent starts is refused; one that is wrong later leaves what was known, and
is reported once. The file's format is described in `identity_file`.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from retina_otel.component import Component, ComponentKind, Context, PositiveDuration, Settings
from retina_otel.errors import ConfigError
from retina_otel.extensions.identity_file import (
    IdentityFile,
    PodEntry,
    ServiceEntry,
    read_identity_file,
)
from retina_otel.extensions.node_identity import (
    belongs_to_node,
    local_node,
    node_attributes,
    node_key,
)
from retina_otel.model.attributes import (
    CIDR,
    K8S_NAMESPACE_NAME,
    K8S_NODE_NAME,
    K8S_OWNER_NAME,
    K8S_OWNER_TYPE,
    K8S_POD_NAME,
    K8S_POD_UID,
    K8S_RESOURCE_TYPE,
    K8S_SERVICE_NAME,
)
from retina_otel.model.batches import AttributeValue
from retina_otel.model.interfaces import Change, ChangeKind, Interface
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind

_POD_LABEL = "k8s.pod.label."
_Signature = tuple[int, int, int] | None
_instances = itertools.count()


class StaticIdentitySettings(Settings):
    """Tells who is who by a YAML file, which is read again when it changes."""

    path: Path
    """YAML file with the identities."""
    check_interval: PositiveDuration = Field(default="1s", validate_default=True)
    """How often to look whether the file, or a network namespace named in it, has changed."""


class StaticIdentity:
    """One file and the endpoints made of it."""

    def __init__(self, settings: StaticIdentitySettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        # A reload starts the new instance before it stops the old one: each has its own rows.
        self._source = f"{context.id}#{next(_instances)}"
        self._lock = threading.Lock()
        self._file = IdentityFile()
        self._signature: _Signature = None
        self._inodes: dict[str, int] = {}
        self._interfaces: dict[int, Interface] = {}
        self._wanted: frozenset[str] = frozenset()
        self._started = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Raises ConfigError if the file can't be used."""
        self._signature = self._sign()
        self._take(read_identity_file(self._settings.path))
        self._context.interfaces.subscribe(self._interface_changed)
        with self._lock:
            self._started = True
            self._publish()
        self._thread = threading.Thread(target=self._watch, name="static_identity", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Its endpoints are removed; the table lets them linger for what is drained last."""
        self._context.interfaces.unsubscribe(self._interface_changed)
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
        with self._lock:
            self._started = False
        self._context.identity.update([], source=self._source)

    def check(self) -> None:
        """Reads the file again if it has changed, and follows namespaces that came or went."""
        signature = self._sign()
        if signature != self._signature:
            self._signature = signature
            try:
                file = read_identity_file(self._settings.path)
            except ConfigError as error:
                self._context.degraded(f"what was known before stays: {error}")
                return
            self._context.degraded("")
            self._context.logger.info("read %s again", self._settings.path)
            with self._lock:
                self._take(file)
                self._publish()
        elif (inodes := _find_namespaces(self._file)) != self._inodes:
            with self._lock:
                self._inodes = inodes
                self._publish()

    def _watch(self) -> None:
        while not self._stop.wait(self._settings.check_interval):
            self.check()

    def _sign(self) -> _Signature:
        try:
            found = os.stat(self._settings.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _take(self, file: IdentityFile) -> None:
        self._file = file
        self._inodes = _find_namespaces(file)
        self._wanted = frozenset(pod.interface for pod in file.pods if pod.interface)

    def _interface_changed(self, change: Change) -> None:
        interface = change.interface
        with self._lock:
            before = self._interfaces.pop(interface.ifindex, None)
            if change.kind is not ChangeKind.REMOVED:
                self._interfaces[interface.ifindex] = interface
            if self._started and (self._concerns(interface) or self._concerns(before)):
                self._publish()

    def _concerns(self, interface: Interface | None) -> bool:
        if interface is None:
            return False
        return interface.name in self._wanted or (
            self._file.node is not None and belongs_to_node(interface)
        )

    def _publish(self) -> None:
        self._context.identity.update(list(self._endpoints()), source=self._source)

    def _endpoints(self) -> Iterator[Endpoint]:
        file = self._file
        node_name = ""
        if file.node:
            node_name = file.node.name
            yield local_node(
                node_name, file.node.uid, self._interfaces.values(), file.node.addresses
            )
        for node in file.nodes:
            yield Endpoint(
                EndpointKind.NODE,
                node_key(node.name, node.uid),
                node_attributes(node.name, node.uid),
                addresses=node.addresses,
            )
        ifindexes = {interface.name: ifindex for ifindex, interface in self._interfaces.items()}
        for pod in file.pods:
            inode = pod.netns if isinstance(pod.netns, int) else self._inodes.get(pod.netns or "")
            yield _pod(pod, node_name, ifindexes.get(pod.interface), inode)
        for service in file.services:
            yield _service(service)
        for cidr in file.cidrs:
            yield Endpoint(
                EndpointKind.CIDR,
                f"cidr:{cidr.cidr}",
                {CIDR.name: cidr.name},
                addresses=(cidr.cidr,),
            )


def _find_namespaces(file: IdentityFile) -> dict[str, int]:
    """Inodes of the namespaces that the file names by path and that exist now."""
    inodes = {}
    for pod in file.pods:
        if isinstance(pod.netns, str):
            with suppress(OSError):
                inodes[pod.netns] = os.stat(pod.netns).st_ino
    return inodes


def _pod(pod: PodEntry, node_name: str, ifindex: int | None, inode: int | None) -> Endpoint:
    # A pod without owner is its own, so that nothing is lost where one asks by owner.
    owner = (pod.owner.name, pod.owner.kind.lower()) if pod.owner else (pod.name, "pod")
    attributes: dict[str, AttributeValue] = {
        K8S_NAMESPACE_NAME.name: pod.namespace,
        K8S_POD_NAME.name: pod.name,
        K8S_OWNER_NAME.name: owner[0],
        K8S_OWNER_TYPE.name: owner[1],
        K8S_RESOURCE_TYPE.name: "pod",
    }
    if pod.uid:
        attributes[K8S_POD_UID.name] = pod.uid
    if node := pod.node or node_name:
        attributes[K8S_NODE_NAME.name] = node
    attributes.update({_POD_LABEL + key: value for key, value in pod.labels.items()})
    return Endpoint(
        EndpointKind.POD,
        pod.uid or f"pod:{pod.namespace}/{pod.name}",
        attributes,
        addresses=pod.addresses,
        interfaces=(ifindex,) if ifindex else (),
        netns=(inode,) if inode else (),
    )


def _service(service: ServiceEntry) -> Endpoint:
    return Endpoint(
        EndpointKind.SERVICE,
        service.uid or f"service:{service.namespace}/{service.name}",
        {
            K8S_NAMESPACE_NAME.name: service.namespace,
            K8S_SERVICE_NAME.name: service.name,
            K8S_RESOURCE_TYPE.name: "service",
        },
        addresses=service.addresses,
    )


COMPONENT = Component(
    type="static_identity",
    kind=ComponentKind.EXTENSION,
    stability="beta",
    Settings=StaticIdentitySettings,
    create=StaticIdentity,
    signals=frozenset(),
)
