"""A real Prometheus: takes remote write and OTLP, scrapes, and answers queries.

What it has stored is read back exactly: `last` and `samples` give raw samples, which are never
extrapolated and outlive staleness; whole numbers below 2**53 are exact.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from retina_otel.errors import RetinaError
from retina_otel.testing.backends.binaries import binary
from retina_otel.testing.backends.process import LOOPBACK, Backend
from retina_otel.testing.namespaces import Namespace

NAME = "__name__"
PROMOTED = ("k8s.node.name", "k8s.cluster.name")
"""Resource attributes that become labels of what comes by OTLP."""

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its labels with the name under `__name__`, its samples, oldest first."""

    labels: Labels
    times_ms: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    histograms: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Native ones by time in ms: count, sum and buckets as its API tells them."""

    @property
    def name(self) -> str:
        return self.labels[NAME]


class Prometheus(Backend):
    """`scrape` holds targets ("127.0.0.1:9090") or whole scrape configurations; `config` is merged
    over the top level of its configuration file (`otlp`, `rule_files`, ...), `arguments` go to its
    command line."""

    name = "prometheus"

    def __init__(
        self,
        folder: Path,
        *,
        remote_write: bool = True,
        otlp: bool = True,
        scrape: Sequence[str | Mapping[str, Any]] = (),
        scrape_interval: str = "500ms",
        config: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = (),
        namespace: Namespace | None = None,
    ) -> None:
        super().__init__(folder, namespace)
        (self.port,) = self._free_ports(1)
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.config_path = folder / "prometheus.yml"
        self.config_path.write_text(
            yaml.safe_dump(_configuration(scrape, scrape_interval) | dict(config or {}))
        )
        self._argv = [
            binary("prometheus"),
            f"--config.file={self.config_path}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={LOOPBACK}:{self.port}",
            "--web.enable-lifecycle",
            *(["--web.enable-remote-write-receiver"] if remote_write else []),
            *(["--web.enable-otlp-receiver"] if otlp else []),
            *arguments,
        ]

    @property
    def remote_write_url(self) -> str:
        return f"{self.url}/api/v1/write"

    @property
    def otlp_url(self) -> str:
        """The base that an OTLP exporter is given: /v1/metrics is appended."""
        return f"{self.url}/api/v1/otlp"

    def query(self, promql: str, at: float | None = None) -> list[tuple[Labels, float]]:
        """Labels and value of each series of an instant query, at a Unix time or now."""
        found = self._api("query", query=promql, **({} if at is None else {"time": repr(at)}))
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(each["metric"], float(each["value"][1])) for each in found["result"]]

    def samples(self, selector: str, window: str = "1h") -> list[Series]:
        """The raw samples of the last `window` of each series that the selector finds. Stale
        markers are left out."""
        found = self._api("query", query=f"{selector}[{window}]")["result"]
        return [
            Series(
                each["metric"],
                [round(time * 1000) for time, _ in each.get("values", ())],
                [float(value) for _, value in each.get("values", ())],
                {round(time * 1000): told for time, told in each.get("histograms", ())},
            )
            for each in found
        ]

    def last(self, selector: str, window: str = "1h") -> list[tuple[Labels, float]]:
        """The last raw sample of each series, also where the series has ended since."""
        return [
            (series.labels, series.values[-1])
            for series in self.samples(selector, window)
            if series.values
        ]

    def series(self, *selectors: str) -> list[Labels]:
        """Labels of all series that match one of the selectors."""
        pairs = [("match[]", selector) for selector in selectors]
        found: list[Labels] = self._get(f"/api/v1/series?{urlencode(pairs)}")
        return found

    def metadata(self) -> dict[str, list[dict[str, str]]]:
        """Type, unit and help by metric, of what was scraped."""
        found: dict[str, list[dict[str, str]]] = self._get("/api/v1/metadata")
        return found

    def alerts(self) -> Iterator[tuple[str, Labels]]:
        """State ("pending", "firing") and labels of each active alert."""
        for alert in self._get("/api/v1/alerts")["alerts"]:
            yield alert["state"], alert["labels"]

    def reload(self) -> None:
        """Reads its configuration file again. Raises RetinaError if it does not like it."""
        status, body = self.request(self.port, "POST", "/-/reload")
        if status != 200:
            raise RetinaError(f"prometheus answers {status}: {body.decode()}")

    def _api(self, call: str, **parameters: str) -> Any:
        return self._get(f"/api/v1/{call}?{urlencode(parameters)}")

    def _get(self, path: str) -> Any:
        status, body = self.request(self.port, "GET", path)
        answer = json.loads(body)
        if answer["status"] != "success":
            raise RetinaError(f"prometheus answers {status} to {path}: {answer['error']}")
        return answer["data"]

    def _ready(self) -> bool:
        return self._answers(self.port, "/-/ready")


def _configuration(scrape: Sequence[str | Mapping[str, Any]], interval: str) -> dict[str, Any]:
    targets = [each for each in scrape if isinstance(each, str)]
    jobs = [dict(each) for each in scrape if not isinstance(each, str)]
    if targets:
        jobs.insert(0, {"job_name": "retina-otel", "static_configs": [{"targets": targets}]})
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": jobs,
        "otlp": {"promote_resource_attributes": list(PROMOTED)},
        # Samples of a request that was repeated may be older than what came meanwhile.
        "storage": {"tsdb": {"out_of_order_time_window": "10m"}},
    }


def promtool(
    arguments: Sequence[str], stdin: str = "", *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs promtool to its end. With `check` a failure raises RetinaError with what it said."""
    done = subprocess.run(
        [binary("promtool"), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if check and done.returncode != 0:
        raise RetinaError(f"promtool {arguments[0]}: {(done.stderr or done.stdout).strip()}")
    return done
