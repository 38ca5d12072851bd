"""The Collector of collector-config/builder.yaml with one of the configurations beside it.

Those take their addresses from the environment: this sets OTLP_GRPC_ENDPOINT, OTLP_HTTP_ENDPOINT
and HEALTH_ENDPOINT to free ports of loopback, OTLP_FILE and STORAGE_DIRECTORY to paths in its
folder.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retina_otel.errors import RetinaError
from retina_otel.testing.backends.binaries import collector_binary
from retina_otel.testing.backends.process import LOOPBACK, Backend
from retina_otel.testing.namespaces import Namespace

CONFIGURATIONS = Path(__file__).parents[3] / "collector-config"
KINDS = ("sum", "gauge", "histogram", "exponentialHistogram")
ACCEPTED = (b"", b"\x0a\x00")
"""Answers that refuse nothing: an empty message, or one with an empty partial success."""

Attributes = frozenset[tuple[str, Any]]
Series = tuple[str, Attributes]
"""Name of a metric, attributes of the point."""


class Collector(Backend):
    """One Collector and the file of OTLP/JSON lines that it writes, if its configuration says so.

    Each of `configs`, which it merges, is a path or the name of a file of collector-config without
    its ending; they must have the extension health_check at HEALTH_ENDPOINT.
    """

    def __init__(
        self,
        configs: Path | str | Sequence[Path | str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        namespace: Namespace | None = None,
        feature_gates: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, namespace)
        given = arguments(configs)
        self.name = f"collector-{Path(given[1]).stem}"
        self.file = folder / f"{self.name}.jsonl"
        storage = folder / f"{self.name}-storage"
        storage.mkdir(exist_ok=True)
        self.grpc_port, self.http_port, self._health_port = self._free_ports(3)
        self.grpc_endpoint = f"{LOOPBACK}:{self.grpc_port}"
        self.endpoint = f"http://{LOOPBACK}:{self.http_port}"
        gates = [f"--feature-gates={','.join(feature_gates)}"] if feature_gates else []
        self._argv = [collector_binary(), *given, *gates]
        self._environment = {
            "OTLP_GRPC_ENDPOINT": self.grpc_endpoint,
            "OTLP_HTTP_ENDPOINT": f"{LOOPBACK}:{self.http_port}",
            "HEALTH_ENDPOINT": f"{LOOPBACK}:{self._health_port}",
            "OTLP_FILE": str(self.file),
            "STORAGE_DIRECTORY": str(storage),
            **(environment or {}),
        }

    def kill(self) -> None:
        """Ends it as a crash would. A line that was being written is taken out of the file:
        the file exporter would go on behind its first half."""
        super().kill()
        if self.file.exists():
            written = self.file.read_bytes()
            self.file.write_bytes(written[: written.rfind(b"\n") + 1])

    def post(self, path: str, body: bytes) -> None:
        """Sends an OTLP request (protobuf) to `/v1/...`. Raises RetinaError unless it is accepted
        in full."""
        headers = {"Content-Type": "application/x-protobuf"}
        status, answer = self.request(self.http_port, "POST", path, body, headers)
        if status != 200 or answer not in ACCEPTED:
            raise RetinaError(f"{self.name} answers {status} to {path}: {answer!r}")

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

    def events(self) -> list[tuple[str, Attributes]]:
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

    def _ready(self) -> bool:
        # It answers before it begins to listen for signals: one that comes in between kills it with
        # what it has not written. It has begun when none of its threads has anything left to do.
        return self._answers(self._health_port, "/") and self._sleeps()


def arguments(configs: Path | str | Sequence[Path | str]) -> list[str]:
    """`--config PATH` for each."""
    out = []
    for config in [configs] if isinstance(configs, Path | str) else configs:
        path = config if isinstance(config, Path) else CONFIGURATIONS / f"{config}.yaml"
        out += ["--config", str(path)]
    return out


def validate(
    configs: Path | str | Sequence[Path | str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `otelcol validate` says of configurations; its exit code is 0 for good ones."""
    return subprocess.run(
        [collector_binary(), "validate", *arguments(configs)],
        env=os.environ | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def attributes_of(pairs: list[dict[str, Any]]) -> Attributes:
    """OTLP/JSON attributes as a set; int64 comes as text there."""
    out = []
    for pair in pairs:
        ((kind, value),) = pair["value"].items()
        out.append((pair["key"], int(value) if kind == "intValue" else value))
    return frozenset(out)
