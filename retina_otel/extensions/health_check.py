"""`health_check`: over HTTP, whether the agent is ready, what each component does, and its ledgers.

`GET /` answers 200 when the agent is ready and 503 otherwise, with the same JSON; a probe needs
only the number. It tells who runs, not what was seen; on loopback unless configured.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import Field

from retina_otel import __version__
from retina_otel.component import AgentStatus, Component, ComponentKind, Context, Settings
from retina_otel.errors import ConfigError, cannot_listen

_REQUEST_TIMEOUT_S = 5.0


class HealthCheckSettings(Settings):
    """Tells over HTTP how the agent is."""

    endpoint: str = "127.0.0.1:13133"
    """Address and port to listen on. A Kubernetes probe needs `0.0.0.0:13133`, or the pod's
    address."""
    path: str = Field(default="/", pattern=r"^/\S*$")
    """Path that is answered; any other is 404."""


class HealthCheck:
    """One thread accepts; each request has its own while it lasts."""

    def __init__(self, settings: HealthCheckSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._address = _parse(settings.endpoint, context.id)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port in use, also where the settings say 0; 0 before the start."""
        return int(self._server.server_address[1]) if self._server else 0

    def start(self) -> None:
        """Raises ConfigError if the address can't be listened on."""
        try:
            self._server = _Server(self._address, self._settings.path, self._context.status)
        except OSError as error:
            key = f"extensions.{self._context.id}.endpoint"
            raise cannot_listen(self._settings.endpoint, key, error) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name=self._context.id, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


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
        del ledger["name"]
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], path: str, status: Callable[[], AgentStatus]
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.path = path
        self.status = status
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that asks DNS for this machine's name, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        if self.path.partition("?")[0] != self.server.path:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        status = self.server.status()
        content = json.dumps(render(status), indent=2).encode() + b"\n"
        self.send_response(HTTPStatus.OK if status.ready else HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: they are not worth a line."""

    def version_string(self) -> str:
        return f"retina-otel/{__version__}"


def _parse(endpoint: str, id_: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(
            f"'{endpoint}' is not an address with a port",
            "Write 127.0.0.1:13133, or [::1]:13133.",
            path=f"extensions.{id_}.endpoint",
        )
    return host, int(port)


COMPONENT = Component(
    type="health_check",
    kind=ComponentKind.EXTENSION,
    stability="beta",
    Settings=HealthCheckSettings,
    create=HealthCheck,
)
