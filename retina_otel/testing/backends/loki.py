"""A real Loki in one process: takes OTLP log records, and gives them back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from retina_otel.errors import RetinaError
from retina_otel.testing.backends.binaries import binary
from retina_otel.testing.backends.process import LOOPBACK, Backend
from retina_otel.testing.namespaces import Namespace

MOST_LINES = 5000


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: stream labels and structured metadata together, as a query sees them."""

    labels: dict[str, str]
    time_ns: int
    line: str


class Loki(Backend):
    """`index_labels` are resource attributes that become labels of the stream, beside those of
    Loki's own list; all others are structured metadata."""

    name = "loki"

    def __init__(
        self, folder: Path, *, index_labels: Sequence[str] = (), namespace: Namespace | None = None
    ) -> None:
        super().__init__(folder, namespace)
        self.port, self._grpc_port = self._free_ports(2)
        self.url = f"http://{LOOPBACK}:{self.port}"
        path = folder / "loki.yaml"
        path.write_text(yaml.safe_dump(self._configuration(index_labels)))
        self._argv = [binary("loki"), f"-config.file={path}"]

    @property
    def otlp_url(self) -> str:
        """The base that an OTLP exporter is given: /v1/logs is appended."""
        return f"{self.url}/otlp"

    def query(self, logql: str, seconds: float = 3600) -> list[Entry]:
        """The newest lines of the last `seconds`, oldest first, at most 5,000. Raises RetinaError
        with Loki's answer if it refuses."""
        end = time.time_ns() + 1_000_000_000
        parameters = {
            "query": logql,
            "start": end - int(seconds * 1e9),
            "end": end,
            "limit": MOST_LINES,
            "direction": "backward",
        }
        found = self._get(f"/loki/api/v1/query_range?{urlencode(parameters)}")
        entries = [
            Entry(stream["stream"], int(at), line)
            for stream in found["result"]
            for at, line, *_ in stream["values"]
        ]
        return sorted(entries, key=lambda entry: entry.time_ns)

    def value(self, logql: str) -> float:
        """The one value of a metric query, now; 0 where it finds nothing."""
        found = self._get(f"/loki/api/v1/query?{urlencode({'query': logql})}")["result"]
        return sum(float(each["value"][1]) for each in found)

    def _get(self, path: str) -> Any:
        status, body = self.request(self.port, "GET", path)
        if status != 200:
            raise RetinaError(f"loki answers {status} to {path}: {body.decode().strip()}")
        return json.loads(body)["data"]

    def _ready(self) -> bool:
        return self._answers(self.port, "/ready")

    def _configuration(self, index_labels: Sequence[str]) -> dict[str, Any]:
        chosen = [{"action": "index_label", "attributes": list(index_labels)}]
        return {
            "auth_enabled": False,
            "analytics": {"reporting_enabled": False},
            "server": {
                "http_listen_address": LOOPBACK,
                "http_listen_port": self.port,
                "grpc_listen_address": LOOPBACK,
                "grpc_listen_port": self._grpc_port,
                "log_level": "warn",
            },
            "common": {
                "instance_addr": LOOPBACK,
                "path_prefix": str(self.folder / "data"),
                "replication_factor": 1,
                "ring": {"kvstore": {"store": "inmemory"}},
            },
            # Ready at once: nobody else joins the ring.
            "ingester": {"lifecycler": {"min_ready_duration": "0s", "final_sleep": "0s"}},
            "schema_config": {
                "configs": [
                    {
                        "from": "2024-01-01",
                        "store": "tsdb",
                        "object_store": "filesystem",
                        "schema": "v13",
                        "index": {"prefix": "index_", "period": "24h"},
                    }
                ]
            },
            "limits_config": {
                "allow_structured_metadata": True,
                "otlp_config": {"resource_attributes": {"attributes_config": chosen}}
                if index_labels
                else {},
            },
        }
