"""MetricsConfigurations on a real API server: both definitions of the kind, and the API as an
administrator uses it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from retina_otel.kubernetes.api.access import Access, AccessError
from retina_otel.kubernetes.metrics_configuration.following import read_all
from retina_otel.kubernetes.metrics_configuration.objects import PATH
from retina_otel.kubernetes.metrics_configuration.status import outdated, write_status

Json = dict[str, Any]
OURS = Path("charts/retina-otel/crds/metricsconfigurations.yaml")
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAME = "metricsconfigurations.retina.sh"
STRINGS = {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}


def retinas(*, status: bool = True) -> Json:
    """What Retina installs under this name: the same fields, nothing but their types checked."""
    spec = {
        "type": "object",
        "required": ["contextOptions", "namespaces"],
        "properties": {
            "contextOptions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["metricName"],
                    "properties": {
                        "metricName": {"type": "string"},
                        "ttl": {"type": "string"},
                        "sourceLabels": STRINGS,
                        "destinationLabels": STRINGS,
                        "additionalLabels": STRINGS,
                    },
                },
            },
            "namespaces": {
                "type": "object",
                "properties": {"include": STRINGS, "exclude": STRINGS},
            },
        },
    }
    states = ["Initialized", "Accepted", "Errored", "Warning"]
    schema = {
        "type": "object",
        "properties": {
            "spec": spec,
            "status": {
                "type": "object",
                "required": ["reason", "state"],
                "properties": {
                    "lastKnownSpec": spec,
                    "reason": {"type": "string"},
                    "state": {"type": "string", "default": "Initialized", "enum": states},
                },
            },
        },
    }
    version: Json = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    if status:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": "retina.sh",
            "scope": "Cluster",
            "names": {"kind": "MetricsConfiguration", "plural": "metricsconfigurations"},
            "versions": [version],
        },
    }


def ours() -> Json:
    document: Json = yaml.safe_load(OURS.read_text())
    return document


class Api:
    """The API as an administrator uses it."""

    def __init__(self, access: Access) -> None:
        self.access = access

    def request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Any:
        with self.access.session() as session:
            return json.loads(session.request(method, path, body=body, content_type=content_type))

    def create(self, name: str = "one", **spec: Any) -> Json:
        made: Json = self.request("POST", PATH, configuration(name, **spec))
        return made

    def edit(self, name: str = "one", **spec: Any) -> None:
        body = [{"op": "add", "path": f"/spec/{key}", "value": spec[key]} for key in spec]
        self.request("PATCH", f"{PATH}/{name}", body, content_type="application/json-patch+json")

    def delete(self, name: str = "one") -> None:
        self.request("DELETE", f"{PATH}/{name}")

    def delete_all(self) -> None:
        for one in read_all(self.access):
            self.delete(one.name)

    def status(self, name: str = "one") -> Json:
        found: Json = self.request("GET", f"{PATH}/{name}").get("status", {})
        return found

    def write_statuses(self) -> list[str]:
        with self.access.session() as session:
            todo = outdated(read_all(self.access))
            for one, status in todo:
                write_status(session, one, status)
        return sorted(one.name for one, _ in todo)


def configuration(name: str = "one", **spec: Any) -> Json:
    options = [{"metricName": "forward_count", "sourceLabels": ["podname"]}]
    return {
        "apiVersion": "retina.sh/v1alpha1",
        "kind": "MetricsConfiguration",
        "metadata": {"name": name},
        "spec": {"contextOptions": options, "namespaces": {"include": ["shop"]}, **spec},
    }


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


@contextmanager
def defined(api: Api, definition: Json) -> Iterator[None]:
    """The kind is there for the `with` block, and no longer."""
    api.request("POST", DEFINITIONS, definition)
    until(lambda: served(api), "the kind")
    try:
        yield
    finally:
        api.request("DELETE", f"{DEFINITIONS}/{NAME}")
        until(lambda: not served(api), "the end of the kind")


def served(api: Api) -> bool:
    try:
        api.request("GET", PATH)
    except AccessError:
        return False
    return True


def by(*definitions: Callable[[], Json] | None) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", definitions, indirect=True)


def option(**fields: Any) -> list[Json]:
    return [{"metricName": "forward_count", **fields}]
