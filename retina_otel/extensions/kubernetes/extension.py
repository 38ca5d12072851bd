"""`kubernetes`: who is who by the Kubernetes API, kept up to date for as long as the agent runs.

What was known stays known while the API server is away, and the agent goes on. Sources call from
threads of their own; the tick thread, which binds pods to interfaces, waits for none of them.
"""

from __future__ import annotations

import ipaddress
import itertools
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from retina_otel.component import Context
from retina_otel.errors import ConfigError
from retina_otel.extensions.kubernetes.introduction import Introduction
from retina_otel.extensions.kubernetes.local_ends import LocalEnds, is_wire
from retina_otel.extensions.kubernetes.plan import Watched, plan
from retina_otel.extensions.kubernetes.reasons import Reasons
from retina_otel.extensions.kubernetes.settings import KubernetesSettings, PodsFrom
from retina_otel.extensions.kubernetes.sources import Listener, Source, Watches, of_service
from retina_otel.extensions.node_identity import routable
from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Change
from retina_otel.kubernetes.inventory.changes import InventoryChange
from retina_otel.kubernetes.inventory.inventory import Inventory
from retina_otel.kubernetes.inventory.owners import Missing
from retina_otel.kubernetes.metrics_configuration.configured import Configured
from retina_otel.kubernetes.metrics_configuration.merge import overlay
from retina_otel.kubernetes.metrics_configuration.observed import observed
from retina_otel.kubernetes.objects import Kind, Node
from retina_otel.model.attributes import K8S_NODE_NAME
from retina_otel.model.interfaces import Interface
from retina_otel.pipeline.identity.selection import View

INTRODUCTION_S = 3.0
"""How long the start of the agent waits for the API server to say which cluster and node it is."""
_instances = itertools.count()


class Kubernetes:
    """One API server, or one identity service, and the endpoints made of what it says."""

    def __init__(self, settings: KubernetesSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        # A reload starts the new instance before it stops the old one: each has its own rows.
        self._source_id = f"{context.id}#{next(_instances)}"
        self._node = settings.node_name or str(context.resource.get(K8S_NODE_NAME.name, ""))
        self._reasons = Reasons(context.degraded)
        self._lock = threading.Lock()
        self._inventory = Inventory(
            node_name=self._node,
            cidrs=settings.cidrs,
            observe_annotated=settings.observe_annotated,
        )
        self._ends = LocalEnds()
        self._pods_changed = True
        self._ends_seen: object = None
        self._watched: list[Watched] = []
        self._source: Source | None = None
        self._configured = Configured()
        self._introduction = Introduction(self._node, context.learned)
        self._introduced: Node | None = None
        self._missing: dict[Kind, str] = {}
        """What is not known as long as a kind was not listed."""

    def start(self) -> None:
        """Raises RetinaError if there is no way to an API server, ConfigError if the node's name is
        needed and not known."""
        settings, view = self._settings, self._settings.context
        if not self._node and view is not View.REMOTE:
            raise ConfigError(
                f"the node's name is not known, which `context: {view.value}` needs",
                "Set K8S_NODE_NAME from spec.nodeName by the downward API, or `node_name`",
                path=f"extensions.{self._context.id}.node_name",
            )
        retina_endpoints = settings.pods_from is PodsFrom.RETINA_ENDPOINTS
        access = None
        if settings.service is None or settings.service.fall_back:
            access = Access.from_settings(settings.kubeconfig, settings.kubeconfig_context)
        self._inventory = Inventory(
            node_name=self._node,
            cidrs=settings.cidrs,
            api_server=_addresses_of(access.server) if access else (),
            observe_annotated=settings.observe_annotated,
            retina_endpoints=retina_endpoints,
        )
        self._context.identity.settle_after_ns = (
            int(settings.settle * 1e9) if view is View.REMOTE else 0
        )
        self._context.selection.set(view=view)
        self._select()
        self._publish(self._inventory.start())
        self._watched = list(
            plan(
                view,
                self._node,
                labels=settings.labels,
                annotations=settings.annotations,
                observe_annotated=settings.observe_annotated,
                retina_endpoints=retina_endpoints,
            )
        )
        self._missing = {one.kind: one.without for one in self._watched}
        self._tell_missing()
        self._source = self._make_source(access)
        self._source.start()
        self._introduction.wait(INTRODUCTION_S)

    def stop(self) -> None:
        """Its endpoints are removed; the table lets them linger for what is drained last."""
        if self._source is not None:
            self._source.stop()
        self._context.identity.update([], source=self._source_id)
        self._context.selection.set(view=View.REMOTE, observed=None)

    def tick(self, end_ns: int) -> None:
        """Finds out where the pods of this node live, if anything may have changed."""
        self._reasons.tell()
        if self._settings.context is View.NODE:
            return
        namespaces = self._context.namespaces
        moved = namespaces is not None and namespaces.refresh()
        interfaces = self._context.interfaces.current()
        now = (
            "" if namespaces is None else namespaces.unavailable,
            {(one.ifindex, one.peer_netnsid, one.default_route) for one in interfaces.values()},
        )
        if not (moved or self._pods_changed or now != self._ends_seen):
            return
        # A change that is being taken in is waited for by nobody: there is another tick.
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._pods_changed, self._ends_seen = False, now
            self._bind(interfaces)
        finally:
            self._lock.release()

    def _bind(self, interfaces: Mapping[int, Interface]) -> None:
        namespaces = self._context.namespaces
        unavailable = "nobody looks at them" if namespaces is None else namespaces.unavailable
        if namespaces is not None and not unavailable:
            self._reasons.set("local ends", "")
            ends = self._ends.by_processes(
                self._inventory.local_pods(),
                namespaces.current().values(),
                interfaces.values(),
                self._context.clock.wall_ns(),
            )
            self._publish(self._inventory.bind(ends))
            return
        self._reasons.set(
            "local ends", f"pods of this node are told by their addresses only: {unavailable}"
        )
        there = {
            one.ifindex: routable(self._context.interfaces.addresses_in(one.peer_netnsid))
            for one in interfaces.values()
            if is_wire(one)
        }
        self._publish(
            self._inventory.bind(self._ends.by_addresses(self._inventory.local_pods(), there))
        )

    def _make_source(self, access: Access | None) -> Source:
        listener = Listener(
            self._changed, self._reasons.set, self._missing_owners, self._introduction
        )

        def watches() -> Source:
            assert access is not None
            return Watches(access, self._watched, self._node, listener)

        settings = self._settings
        if settings.service is None:
            return watches()
        return of_service(
            settings.service,
            self._watched,
            listener,
            node=self._node,
            view=settings.context,
            in_its_place=watches if access is not None else None,
        )

    def _changed(self, change: Change) -> None:
        kind = change.kind
        with self._lock:
            if change.full and kind in self._missing:
                del self._missing[kind]
                self._tell_missing()
            if kind is Kind.METRICS_CONFIGURATION:
                self._configure(change)
                return
            self._publish(
                self._inventory.apply(
                    kind,
                    change.upserted,
                    change.deleted,
                    change.time_ns,
                    change.full,
                    listed=change.listed,
                )
            )
            self._pods_changed |= kind is Kind.POD
            own = self._inventory.own_node
            if own is not None and own != self._introduced:
                self._introduced = own
                self._introduction.node(own)
            if self._settings.observe_annotated and kind in (Kind.POD, Kind.NAMESPACE):
                self._select()

    def _configure(self, change: Change) -> None:
        if self._configured.apply(change):
            self._select()
            self._context.overlay(overlay(self._configured.merged, self._settings.context))

    def _tell_missing(self) -> None:
        what = ", ".join(self._missing.values())
        self._reasons.set("lists", f"not heard of yet: {what}" if what else "")

    def _missing_owners(self) -> Mapping[str, Missing]:
        with self._lock:
            return dict(self._inventory.missing_owners)

    def _publish(self, change: InventoryChange) -> None:
        if change:
            self._context.identity.apply(change.added, change.removed, source=self._source_id)

    def _select(self) -> None:
        wanted = observed(
            self._configured.merged,
            self._settings.context,
            annotations=self._settings.observe_annotated,
            pods=self._inventory.observed_pods,
            namespaces=self._inventory.observed_namespaces,
        )
        self._context.selection.set(observed=wanted)


def _addresses_of(server: str) -> list[str]:
    """Of the host in an API server's URL, where they mean the same on every host."""
    host = urlsplit(server).hostname or ""
    with suppress(ValueError):
        return list(routable([str(ipaddress.ip_address(host))]))
    with suppress(OSError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(routable(str(entry[4][0]) for entry in found))
    return []
