"""The Collector of collector-config/builder.yaml, run on loopback with first-light.yaml itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from retina_otel.testing.namespaces import Namespace

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "collector-config" / "first-light.yaml"
START_SECONDS = 30
KINDS = ("sum", "gauge", "histogram")
ACCEPTED = (b"", b"\x0a\x00")
"""Answers that refuse nothing: an empty message, or one with an empty partial success."""

T = TypeVar("T")
Series = tuple[str, frozenset[tuple[str, Any]]]
"""Name of a metric, attributes of the point."""


@pytest.fixture(scope="session")
def collector_binary() -> Path:
    path = subprocess.run(
        ["bash", "tools/build-collector", "--path"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not Path(path).exists():
        pytest.fail("the Collector is not built: run `make collector`")
    return Path(path)


def free_ports(n: int) -> list[int]:
    """`n` TCP ports of 127.0.0.1 that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def attributes_of(pairs: list[dict[str, Any]]) -> frozenset[tuple[str, Any]]:
    """OTLP/JSON attributes as a set; int64 comes as text there."""
    out = []
    for pair in pairs:
        ((kind, value),) = pair["value"].items()
        out.append((pair["key"], int(value) if kind == "intValue" else value))
    return frozenset(out)


def answers(url: str) -> bool:
    """Whether a server answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as refused:
        refused.close()
    except (urllib.error.URLError, ConnectionError):
        pass
    return False


class Collector:
    """One Collector process and the file that it writes. It may be stopped and started again.

    With `namespace` it listens on the loopback of that network namespace.
    """

    def __init__(self, binary: Path, folder: Path, namespace: Namespace | None = None) -> None:
        self._binary = binary
        self._namespace = namespace
        self.file = folder / "collector.jsonl"
        self._log_path = folder / "collector.log"
        self.grpc_port, self.http_port, health_port = free_ports(3)
        self._health_endpoint = f"127.0.0.1:{health_port}"
        self._health_url = f"http://{self._health_endpoint}"
        self.endpoint = f"http://127.0.0.1:{self.http_port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the Collector says that it is ready."""
        environment = os.environ | {
            "OTLP_GRPC_ENDPOINT": f"127.0.0.1:{self.grpc_port}",
            "OTLP_HTTP_ENDPOINT": f"127.0.0.1:{self.http_port}",
            "HEALTH_ENDPOINT": self._health_endpoint,
            "OTLP_FILE": str(self.file),
        }
        with self._log_path.open("ab") as log:
            command = [str(self._binary), "--config", str(CONFIG)]
            if self._namespace is not None:
                command = ["nsenter", f"--net={self._namespace.path}", "--", *command]
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._in_namespace(lambda: answers(self._health_url)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no Collector:\n{self.log()}")
            time.sleep(0.05)

    def _in_namespace(self, function: Callable[[], T]) -> T:
        return function() if self._namespace is None else self._namespace.call(function)

    def stop(self) -> None:
        """Ends it properly: all it took is in the file afterwards."""
        self._end("terminate")

    def kill(self) -> None:
        """Ends it as a crash would. A line that was being written is taken out of the file:
        the file exporter would go on behind its first half."""
        self._end("kill")
        written = self.file.read_bytes()
        self.file.write_bytes(written[: written.rfind(b"\n") + 1])

    def _end(self, how: str) -> None:
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(timeout=20)
            self._process = None

    def log(self) -> str:
        return self._log_path.read_text() if self._log_path.exists() else ""

    def post(self, path: str, body: bytes) -> None:
        """Sends an OTLP request (protobuf) to `/v1/...`, which must be accepted in full."""
        request = urllib.request.Request(
            self.endpoint + path, data=body, headers={"Content-Type": "application/x-protobuf"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.read() in ACCEPTED

    def lines(self) -> list[dict[str, Any]]:
        """What the Collector has written; a last line that is still being written is left out."""
        if not self.file.exists():
            return []
        text = self.file.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def points(self) -> dict[Series, list[dict[str, Any]]]:
        """Data points by series, in the order in which they came."""
        out: dict[Series, list[dict[str, Any]]] = {}
        for line in self.lines():
            for resource in line.get("resourceMetrics", ()):
                for scope in resource["scopeMetrics"]:
                    for metric in scope["metrics"]:
                        data = next(metric[kind] for kind in KINDS if kind in metric)
                        for point in data["dataPoints"]:
                            series = (metric["name"], attributes_of(point.get("attributes", [])))
                            out.setdefault(series, []).append(point)
        return out

    def events(self) -> list[tuple[str, frozenset[tuple[str, Any]]]]:
        """Name and attributes of each log record that is an event."""
        return [
            (record["eventName"], attributes_of(record["attributes"])) for record in self.records()
        ]

    def records(self) -> list[dict[str, Any]]:
        """Log records in the order in which they came."""
        return [
            record
            for line in self.lines()
            for resource in line.get("resourceLogs", ())
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]


@pytest.fixture
def collector(collector_binary: Path, tmp_path: Path) -> Iterator[Collector]:
    instance = Collector(collector_binary, tmp_path)
    try:
        instance.start()
        yield instance
    finally:
        instance.stop()
