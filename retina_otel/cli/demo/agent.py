"""The agent of the demo: the real one, a child process in the namespace of the lab's node.

Its Prometheus endpoint is on the node's loopback, which nobody outside the namespace reaches, so a
relay on this machine's loopback passes on what it says.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from retina_otel.cli.demo.figures import Figures, figures
from retina_otel.errors import RetinaError
from retina_otel.testing.namespaces import Namespace
from retina_otel.testing.scrape import fetch, samples

RECEIVERS = ("flows", "drops", "interfaces")
_LOOPBACK, _PORT = "127.0.0.1", 10093
_READY_S = 20.0
_STOP_S = 10.0
_UP = frozenset({"running", "degraded"})


class DemoAgent:
    """A running agent, as a context manager. `folder` holds its files: configuration, log, OTLP."""

    def __init__(
        self,
        node: Namespace,
        identity: Mapping[str, Any],
        folder: Path,
        exporters: Mapping[str, Any],
    ) -> None:
        """`exporters` get the metrics too."""
        self.folder = folder
        self.config_path = folder / "agent.yaml"
        self.log_path = folder / "agent.log"
        self.otlp_path = folder / "otlp.jsonl"
        self._node = node
        identity_path = folder / "identity.yaml"
        identity_path.write_text(yaml.safe_dump(dict(identity), sort_keys=False))
        self.config_path.write_text(
            yaml.safe_dump(
                _configuration(identity_path, self.otlp_path, exporters), sort_keys=False
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._relay = _Relay(self._text)

    @property
    def url(self) -> str:
        """Where this machine reads the agent's metrics."""
        return self._relay.url

    def __enter__(self) -> DemoAgent:
        with self.log_path.open("wb") as log:
            self._process = self._node.popen(
                [sys.executable, "-m", "retina_otel", "agent", "--config", str(self.config_path)],
                stdout=log,
                stderr=log,
                env=_environment(),
            )
        self._relay.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._relay.stop()
        # After a failure the agent still detaches what it attached.
        self._node.stop_processes()

    def wait_until_ready(self, stop: threading.Event) -> Figures:
        """Returns when every receiver runs, or runs with less. Raises RetinaError if one can't."""
        deadline = time.monotonic() + _READY_S
        seen = Figures()
        while time.monotonic() < deadline and not stop.is_set():
            self._check_alive()
            try:
                seen = figures(samples(self._text()))
            except RetinaError:
                stop.wait(0.1)
                continue
            if all(seen.states.get(receiver) in _UP for receiver in RECEIVERS):
                return seen
            if failed := [name for name, state in seen.states.items() if state == "failed"]:
                raise RetinaError(f"{', '.join(failed)} cannot run here", self._log_tail())
            stop.wait(0.1)
        if stop.is_set():
            return seen
        raise RetinaError(f"the agent was not ready within {_READY_S:.0f} s", self._log_tail())

    def figures(self) -> Figures:
        """What its endpoint says now. Raises RetinaError if it does not answer."""
        self._check_alive()
        return figures(samples(self._text()))

    def stop(self) -> int:
        """SIGTERM: the agent sends what is left and ends. Returns its exit code."""
        self._check_alive()
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            raise RetinaError(
                f"the agent did not end within {_STOP_S:.0f} s", self._log_tail()
            ) from None

    def _text(self) -> str:
        return fetch(self._node, _LOOPBACK, _PORT)

    def _check_alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise RetinaError(f"the agent ended with {self._process.returncode}", self._log_tail())

    def _log_tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()[-10:]
        return "The end of its log:\n  " + "\n  ".join(lines)


class _Relay:
    def __init__(self, text: Callable[[], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    body = text().encode()
                except RetinaError as error:
                    self.send_error(HTTPStatus.BAD_GATEWAY, str(error)[:200])
                    return
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing: the terminal shows the tables."""

        try:
            self._server = ThreadingHTTPServer((_LOOPBACK, _PORT), Handler)
        except OSError:
            # Somebody has the agent's usual port, perhaps an agent.
            self._server = ThreadingHTTPServer((_LOOPBACK, 0), Handler)
        self.url = f"http://{_LOOPBACK}:{self._server.server_port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _configuration(identity: Path, otlp: Path, exporters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "extensions": {"static_identity": {"path": str(identity)}},
        # Whatever else lives on this machine drops packets too, perhaps of the same addresses.
        "receivers": {receiver: {} for receiver in RECEIVERS} | {"drops": {"namespaces": "node"}},
        "processors": {"identity": {}},
        "exporters": {
            "prometheus": {"endpoint": f"{_LOOPBACK}:{_PORT}"},
            "file": {"path": str(otlp), "interval": "2s"},
            **exporters,
        },
        "service": {
            "extensions": ["static_identity"],
            "interval": "1s",
            "telemetry": {"metrics": {"interval": "1s"}},
            "pipelines": {
                "metrics": {
                    "receivers": list(RECEIVERS),
                    "processors": ["identity"],
                    "exporters": ["prometheus", "file", *exporters],
                },
                "logs": {
                    "receivers": ["drops"],
                    "processors": ["identity"],
                    "exporters": ["file"],
                },
            },
        },
    }


def _environment() -> dict[str, str]:
    """Ours without what would change the agent: its configuration is the file, and nothing else."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "RETINA_OTEL"))
    }
