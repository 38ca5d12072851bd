"""A Kafka broker: kfake of franz-go, a fake that speaks the real protocol, all in memory."""

from __future__ import annotations

import socket
from pathlib import Path

from retina_otel.testing.backends.binaries import binary
from retina_otel.testing.backends.process import LOOPBACK, Backend
from retina_otel.testing.namespaces import Namespace


class Kafka(Backend):
    """One broker without authentication; topics come into being when they are asked for."""

    name = "kafka"

    def __init__(self, folder: Path, *, namespace: Namespace | None = None) -> None:
        super().__init__(folder, namespace)
        (self.port,) = self._free_ports(1)
        self.broker = f"{LOOPBACK}:{self.port}"
        self._argv = [binary("kafka"), str(self.port)]

    def _ready(self) -> bool:
        def connects() -> bool:
            try:
                socket.create_connection((LOOPBACK, self.port), timeout=5).close()
            except OSError:
                return False
            return True

        return self._within(connects)
