"""The kubernetes extension and a node that can't, for a while, tell whose namespaces are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from retina_otel.agent.clock import SystemClock
from retina_otel.component import Context
from retina_otel.extensions.kubernetes.extension import Kubernetes
from retina_otel.extensions.kubernetes.settings import KubernetesSettings
from retina_otel.model.interfaces import Interface
from retina_otel.model.namespaces import NetworkNamespace
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.ledger import Ledger


@dataclass
class Namespaces:
    """They never change."""

    unavailable: str = ""

    def current(self) -> Mapping[int, NetworkNamespace]:
        return {}

    def refresh(self) -> bool:
        return False


class NoInterfaces:
    def current(self) -> Mapping[int, Interface]:
        return {}


def test_a_node_that_can_not_tell_namespaces_is_degraded_for_as_long_as_that_lasts() -> None:
    told: list[str] = []
    namespaces = Namespaces()
    extension = Kubernetes(
        KubernetesSettings(node_name="here"),
        Context(
            id="kubernetes",
            clock=SystemClock(),
            logger=logging.getLogger("kubernetes"),
            ledger=Ledger("kubernetes", "objects"),
            identity=EndpointTable(),
            interfaces=NoInterfaces(),  # type: ignore[arg-type]
            namespaces=namespaces,
            degraded=told.append,
        ),
    )
    for unavailable in ("", "no memory", ""):
        namespaces.unavailable = unavailable
        extension.tick(0)
        extension.tick(0)

    assert told == ["pods of this node are told by their addresses only: no memory", ""]
