"""Probes and metrics of the service over HTTP: `/livez`, `/readyz`, `/metrics`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus

from retina_otel.serving.server import Handler, Server

_REQUEST_TIMEOUT_S = 5.0
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class HealthServer(Server):
    """`live` and `ready` give the reason why not, empty if it is; `metrics` gives the text."""

    def __init__(
        self,
        address: str,
        *,
        live: Callable[[], str],
        ready: Callable[[], str],
        metrics: Callable[[], bytes],
        logger: logging.Logger,
    ) -> None:
        """Raises OSError if the address can't be listened on."""
        self.probes = {"/livez": live, "/readyz": ready}
        self.metrics = metrics
        super().__init__(address, _Handler, timeout_s=_REQUEST_TIMEOUT_S, logger=logger)


class _Handler(Handler):
    server: HealthServer

    def respond(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self.answer(HTTPStatus.OK, self.server.metrics(), _METRICS)
        elif (probe := self.server.probes.get(path)) is None:
            self.answer_text(HTTPStatus.NOT_FOUND, "Not here: /livez, /readyz and /metrics are")
        elif reason := probe():
            self.answer_text(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        else:
            self.answer_text(HTTPStatus.OK, "ok")
