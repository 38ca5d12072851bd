"""What a scrape of 50,000 series costs in each format, and what the next one of the same tick does.

The scraper is the main thread, whose CPU is not counted; pages travel as gzip over loopback.
"""

from __future__ import annotations

import http.client
import statistics
import time
from contextlib import closing

from retina_otel.encode.prometheus.escaping import Escaping
from retina_otel.encode.prometheus.formats import Format, Syntax
from retina_otel.exporters.prometheus import PrometheusExporter, PrometheusSettings
from retina_otel.testing.exporters import Bench
from tests.bench.exporters.load import RESOURCE, Load
from tests.bench.report import Figure, Report

SERIES = 50_000
ROUNDS = 7
SCRAPE_MS = 150.0
AGAIN_MS = 15.0
_GROUP = f"scrape of {SERIES:,} series"
_FORMATS = {
    "text": (Format(), False),
    "OpenMetrics": (Format(Syntax.OPENMETRICS, "1.0.0"), False),
    "OpenMetrics with _created": (Format(Syntax.OPENMETRICS, "1.0.0"), True),
    "protobuf": (Format(Syntax.PROTOBUF, "", Escaping.UNDERSCORES), False),
}


def measure(report: Report) -> None:
    for name, (format_, created) in _FORMATS.items():
        first, again, n_bytes = _scrapes(format_, created)
        how = f"median CPU of {ROUNDS} ticks after the first, {n_bytes / 1e6:.1f} MB as gzip"
        report.add(_figure(f"{name}, CPU", first, SCRAPE_MS, how))
        report.add(_figure(f"{name}, second scraper, CPU", again, AGAIN_MS, "of the same tick"))


def _scrapes(format_: Format, created: bool) -> tuple[list[float], list[float], int]:
    load = Load(SERIES)
    settings = {"endpoint": "127.0.0.1:0", "created_samples": created}
    exporter = PrometheusExporter(
        PrometheusSettings.model_validate(settings), Bench(resource=RESOURCE).context()
    )
    reader = load.accumulator.reader("scrape", zero_points=exporter.zero_points)
    exporter.start([reader], [])
    first, again, n_bytes = [], [], 0
    for number in range(ROUNDS + 1):
        load.add()
        load.publish()
        taken, n_bytes = _scrape(exporter.port, format_)
        taken_again, _ = _scrape(exporter.port, format_)
        if number:
            first.append(taken * 1000)
            again.append(taken_again * 1000)
    exporter.stop(0)
    return first, again, n_bytes


def _scrape(port: int, format_: Format) -> tuple[float, int]:
    """CPU seconds of all threads but this one, and bytes of the page."""
    before = time.process_time() - time.thread_time()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        headers = {"Accept": format_.content_type, "Accept-Encoding": "gzip"}
        client.request("GET", "/metrics", headers=headers)
        answer = client.getresponse()
        body = answer.read()
    assert answer.headers["Content-Type"] == format_.content_type
    return time.process_time() - time.thread_time() - before, len(body)


def _figure(name: str, values: list[float], budget: float, how: str) -> Figure:
    spread = min(values), max(values)
    return Figure(_GROUP, name, statistics.median(values), "ms", budget, spread, how)
