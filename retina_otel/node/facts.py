"""NodeFacts: all that the node itself knows. Nothing is opened before somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable

from retina_otel.node.looks import Looks
from retina_otel.node.namespaces import Interfaces, NodeNamespaces
from retina_otel.node.sockets import NodeSockets
from retina_otel.node.translations import NodeTranslations
from retina_otel.pipeline.ledger import Ledger


class NodeFacts:
    """Made by the agent; speaks of the namespace of the thread that asks. Tick thread."""

    def __init__(self, monotonic_ns: Callable[[], int], interfaces: Interfaces) -> None:
        self._looks = Looks()
        self.namespaces = NodeNamespaces(self._looks, interfaces)
        self.sockets = NodeSockets(self._looks, monotonic_ns)
        self.translations = NodeTranslations(monotonic_ns)

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        return self.sockets.ledger, self.translations.ledger

    def close(self) -> None:
        self.sockets.close()
        self._looks.close()
        self.translations.close()
