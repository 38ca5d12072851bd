"""Events as lines for people."""

from __future__ import annotations

from typing import Any

import pytest

from retina_otel.observe.lines import columns, compact

POD = {"source.k8s.namespace.name": "shop", "source.k8s.pod.name": "web-0"}


def record() -> dict[str, Any]:
    return {
        "time": "2026-01-31T12:00:00.000000000Z",
        "node": "node-1",
        "event": "retina.flow",
        "verdict": "forwarded",
        "summary": "",
        "attributes": {},
    }


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"k8s.namespace.name": "shop", "k8s.pod.name": "web-0", "port": 80}, "shop/web-0:80"),
        ({"k8s.namespace.name": "shop", "k8s.service.name": "web", "port": 80}, "shop/web:80"),
        ({"k8s.node.name": "node-2", "address": "10.0.0.2"}, "node-2"),
        ({"cidr": "office", "address": "192.0.2.1"}, "office"),
        ({"k8s.resource.type": "world", "address": "8.8.8.8", "port": 53}, "8.8.8.8 (world):53"),
        ({"address": "10.9.9.9"}, "10.9.9.9"),
        ({}, "unknown"),
    ],
)
def test_an_end_is_named_by_what_is_known_best(attributes: dict[str, Any], text: str) -> None:
    made = record()
    made["attributes"] = {f"destination.{name}": value for name, value in attributes.items()}
    assert f" -> {text} flow FORWARDED" in compact(made)
    assert columns(made)[3] == text


def test_icmp_has_no_ports() -> None:
    made = record()
    made["attributes"] = POD | {"source.port": 2048, "network.transport": "icmp"}
    assert compact(made).startswith("shop/web-0 -> unknown flow FORWARDED (icmp)")
