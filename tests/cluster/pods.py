"""Makes pods with the API, and reads them with it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from retina_otel.kubernetes.api.access import Access
from retina_otel.testing.cluster import ControlPlane
from tests.cluster.objects import pod, status


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
