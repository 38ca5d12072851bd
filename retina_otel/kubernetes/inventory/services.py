"""Services and the addresses of the API server, which is the service `default/kubernetes`.

Of slices only those of that service matter: who stands behind the others is asked of the node's
own address translation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from retina_otel.kubernetes.inventory.changes import Changes
from retina_otel.kubernetes.inventory.endpoints import (
    API_SERVER_KEY,
    api_server_endpoint,
    service_endpoint,
)
from retina_otel.kubernetes.objects import EndpointSlice, Service
from retina_otel.pipeline.identity.endpoints import Endpoint

API_SERVER = ("default", "kubernetes")
"""Namespace and name of the API server's service."""


class Services:
    """By uid."""

    def __init__(self, api_server: Sequence[str]) -> None:
        """`api_server`: addresses of the API server that are known from elsewhere."""
        self._configured = tuple(api_server)
        self._endpoints: dict[str, Endpoint] = {}
        self._of_api_server: dict[str, tuple[str, ...]] = {}
        self._slices: dict[str, tuple[str, ...]] = {}
        self._api_server: Endpoint | None = None

    def apply(
        self,
        upserts: Iterable[Service],
        deletes: Iterable[Service],
        there: frozenset[str] | None,
        changes: Changes,
    ) -> None:
        """`there`: uids of all that there are, where that was told."""
        for service in upserts:
            self._take(service, changes)
        gone = {service.meta.uid for service in deletes}
        if there is not None:
            gone |= (self._endpoints.keys() | self._of_api_server.keys()) - there
        for uid in gone:
            self._forget(uid, changes)
        self.tell_api_server(changes)

    def apply_slices(
        self,
        upserts: Iterable[EndpointSlice],
        deletes: Iterable[EndpointSlice],
        there: frozenset[str] | None,
        changes: Changes,
    ) -> None:
        """As `apply`."""
        for one in upserts:
            if (one.meta.namespace, one.service) == API_SERVER:
                self._slices[one.meta.uid] = one.addresses
        for one in deletes:
            self._slices.pop(one.meta.uid, None)
        if there is not None:
            self._slices = {uid: found for uid, found in self._slices.items() if uid in there}
        self.tell_api_server(changes)

    def tell_api_server(self, changes: Changes) -> None:
        """Its endpoint, if it has changed since it was told."""
        known = (self._configured, *self._of_api_server.values(), *self._slices.values())
        addresses = sorted({address for some in known for address in some})
        endpoint = api_server_endpoint(addresses) if addresses else None
        if endpoint == self._api_server:
            return
        self._api_server = endpoint
        if endpoint is None:
            changes.end(API_SERVER_KEY)
        else:
            changes.put(endpoint)

    def _take(self, service: Service, changes: Changes) -> None:
        uid = service.meta.uid
        if (service.meta.namespace, service.meta.name) == API_SERVER:
            self._of_api_server[uid] = service.cluster_addresses + service.external_addresses
            return
        endpoint = service_endpoint(service)
        if not endpoint.addresses:
            self._forget(uid, changes)
            return
        if self._endpoints.get(uid) != endpoint:
            self._endpoints[uid] = endpoint
            changes.put(endpoint)

    def _forget(self, uid: str, changes: Changes) -> None:
        self._of_api_server.pop(uid, None)
        if self._endpoints.pop(uid, None) is not None:
            changes.end(uid)
