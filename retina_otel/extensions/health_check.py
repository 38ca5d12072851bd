"""`health_check`: over HTTP, whether the agent is ready, what each component does, and its ledgers.

`GET /` answers 200 when the agent is ready and 503 otherwise, with the same JSON; a probe needs
only the number. `GET /cardinality` answers what each attribute costs in series, counted when it is
asked for. It tells who runs, not what was seen; on loopback unless configured.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import Field

from retina_otel import __version__
from retina_otel.component import AgentStatus, Component, ComponentKind, Context, Settings
from retina_otel.errors import cannot_listen
from retina_otel.pipeline.series.attribute_costs import MetricCardinality
from retina_otel.serving.address import ListenAddress, PagePath
from retina_otel.serving.server import Handler, Server

_REQUEST_TIMEOUT_S = 5.0
CARDINALITY_PATH = "/cardinality"


class HealthCheckSettings(Settings):
    """Tells over HTTP how the agent is."""

    endpoint: ListenAddress = "127.0.0.1:13133"
    """Address and port to listen on. A Kubernetes probe needs `0.0.0.0:13133`, or the pod's
    address."""
    path: PagePath = Field(default="/", pattern=r"^/\S*$")
    """Path of the agent's health; that of its cardinality is `/cardinality`, any other is 404."""


class HealthCheck:
    """Answers from its start to its end."""

    def __init__(self, settings: HealthCheckSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port in use, also where the settings say 0; 0 before the start."""
        return self._server.port if self._server else 0

    def start(self) -> None:
        """Raises ConfigError if the address can't be listened on."""
        try:
            self._server = _Server(self._settings, self._context)
        except OSError as error:
            key = f"extensions.{self._context.id}.endpoint"
            raise cannot_listen(self._settings.endpoint, key, error) from error
        self._server.start(self._context.id)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()


def render(status: AgentStatus) -> dict[str, Any]:
    """What is answered, ready for JSON."""
    components: dict[str, Any] = {}
    for one in status.components:
        shown: dict[str, Any] = {"state": one.state.value, "failures": one.failures}
        if one.reason:
            shown["reason"] = one.reason
        components.setdefault(f"{one.kind.value}s", {})[one.id] = shown
    ledgers = {}
    for name, report in status.ledgers.items():
        ledger = dataclasses.asdict(report)
        # What might be lost one day is for the metrics, which begin at 0.
        del ledger["name"], ledger["may_lose"]
        for counts in ledger["exports"].values():
            del counts["may_fail"]
        ledgers[name] = ledger | {"difference": report.difference}
    answer: dict[str, Any] = {"status": "ready" if status.ready else "not ready"}
    if status.reason:
        answer["reason"] = status.reason
    return answer | {
        "version": __version__,
        "uptime_s": round(status.uptime_s, 3),
        "components": components,
        "ledgers": ledgers,
    }


def render_cardinality(
    pipelines: Mapping[str, tuple[MetricCardinality, ...]],
) -> dict[str, Any]:
    """What is answered of cardinality, ready for JSON."""
    return {
        "pipelines": {
            name: [dataclasses.asdict(metric) for metric in metrics]
            for name, metrics in pipelines.items()
        }
    }


class _Server(Server):
    def __init__(self, settings: HealthCheckSettings, context: Context) -> None:
        self.path = settings.path
        self.status = context.status
        self.cardinality = context.cardinality
        self.counting = threading.Lock()
        super().__init__(
            settings.endpoint, _Handler, timeout_s=_REQUEST_TIMEOUT_S, logger=context.logger
        )


class _Handler(Handler):
    server: _Server

    def respond(self) -> None:
        path = self.path.partition("?")[0]
        if path == CARDINALITY_PATH != self.server.path:
            # One at a time: whoever asks often must not keep the agent from its work.
            with self.server.counting:
                self._answer(HTTPStatus.OK, render_cardinality(self.server.cardinality()))
            return
        if path != self.server.path:
            self.answer_text(HTTPStatus.NOT_FOUND, f"Not here: health is at {self.server.path}")
            return
        status = self.server.status()
        code = HTTPStatus.OK if status.ready else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(code, render(status))

    def _answer(self, code: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content, indent=2).encode() + b"\n"
        self.answer(code, body, "application/json")


COMPONENT = Component(
    type="health_check",
    kind=ComponentKind.EXTENSION,
    stability="beta",
    Settings=HealthCheckSettings,
    create=HealthCheck,
)
