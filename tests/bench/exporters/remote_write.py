"""Remote write 1.0 and 2.0: encoding, a push of 100,000 series, ten exporters at once; and
encoding as many native histograms."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from retina_otel.component import Context, Exporter
from retina_otel.encode.remote_write import version_1 as remote_write
from retina_otel.encode.remote_write import version_2 as remote_write_2
from retina_otel.encode.remote_write.requests import RemoteWriteEncoder
from retina_otel.encode.remote_write.series import SeriesOptions
from retina_otel.exporters.prometheus_remote_write import (
    PrometheusRemoteWriteExporter,
    PrometheusRemoteWriteSettings,
)
from retina_otel.model.batches import Histogram
from retina_otel.model.signals import Kind
from retina_otel.pipeline.points import PointBlock
from tests.bench.exporters.backend import backend
from tests.bench.exporters.load import RESOURCE, Load, pushed
from tests.bench.report import Figure, Report

SERIES = 100_000
ROUNDS = 5
ENCODE_US = 1.0
HISTOGRAM_US = 2.0
BOUNDARIES = tuple(0.001 * 2**place for place in range(14))
PUSH_MS = 250.0
TIMES_ONE = 2.0
_MOST_BYTES = 2 << 20
_ENCODERS = {"1.0": remote_write.encoder, "2.0": remote_write_2.encoder}
_GROUP = f"remote write, {SERIES:,} series"


def measure(report: Report) -> None:
    load = Load(SERIES)
    for version, make in _ENCODERS.items():
        taken, n_bytes = _encoding(load, make)
        name = f"{version}: encode a series ({n_bytes // SERIES} bytes each)"
        report.add(_figure(name, [seconds / SERIES * 1e6 for seconds in taken], "us", ENCODE_US))
    options = SeriesOptions(RESOURCE, native_histograms=True)
    taken, n_bytes = _encoding(load, lambda _: remote_write_2.encoder(options), _as_histograms)
    name = f"2.0: encode a native histogram of 15 buckets ({n_bytes // SERIES} bytes each)"
    each = [seconds / SERIES * 1e6 for seconds in taken]
    report.add(_figure(name, each, "us", HISTOGRAM_US))
    with backend() as url:
        for version in _ENCODERS:
            one, ten = (_push(load, url, version, n) for n in (1, 10))
            milliseconds = [seconds * 1000 for seconds in one]
            report.add(_figure(f"{version}: push, CPU", milliseconds, "ms", PUSH_MS))
            times = statistics.median(ten) / statistics.median(one)
            name = f"{version}: ten exporters over one"
            how = "snappy is so cheap that what HTTP takes for 27 requests each is most of it"
            if version == "1.0":
                report.add(Figure(_GROUP, name, times, "times", how=f"no budget: {how}"))
            else:
                report.add(Figure(_GROUP, name, times, "times", TIMES_ONE))


def _as_histograms(blocks: Iterable[PointBlock]) -> list[PointBlock]:
    """Histograms with the labels of these points; a third of their buckets is used."""
    random = np.random.default_rng(1)
    out = []
    for block in blocks:
        metric = replace(block.metric, kind=Kind.HISTOGRAM, unit="s", boundaries=BOUNDARIES)
        shape = (len(block.source), len(BOUNDARIES) + 1)
        counts = random.integers(0, 10_000, shape) * (random.random(shape) < 1 / 3)
        values = Histogram(counts, random.random(len(block.source)))
        out.append(replace(block, metric=metric, values=values))
    return out


def _encoding(
    load: Load,
    make: Callable[[SeriesOptions], RemoteWriteEncoder],
    points: Callable[[Iterable[PointBlock]], Iterable[PointBlock]] = list,
) -> tuple[list[float], int]:
    """CPU seconds of each export, and the bytes of the last."""
    reader = load.accumulator.reader("encoding")
    encoder = make(SeriesOptions(RESOURCE))
    taken = []
    n_bytes = 0
    for number in range(ROUNDS + 1):
        load.add()
        load.publish()
        export = reader.take()
        assert export is not None
        blocks = points(export.blocks)
        before = time.process_time()
        n_points = n_bytes = 0
        for request in encoder.requests(blocks, _MOST_BYTES):
            n_points += request.n_items
            n_bytes += len(request.body)
        if number:
            taken.append(time.process_time() - before)
            assert n_points == load.n_series
        reader.acknowledge(export)
    load.accumulator.remove(reader)
    return taken, n_bytes


def _push(load: Load, url: str, version: str, exporters: int) -> list[float]:
    settings = PrometheusRemoteWriteSettings.model_validate(
        {"endpoint": f"{url}/api/v1/write", "protocol": version, "interval": "200ms"}
    )

    def create(context: Context) -> Exporter:
        return PrometheusRemoteWriteExporter(settings, context)

    return pushed(load, create, exporters=exporters, rounds=ROUNDS)


def _figure(name: str, taken: list[float], unit: str, budget: float) -> Figure:
    spread = (min(taken), max(taken))
    return Figure(_GROUP, name, statistics.median(taken), unit, budget, spread)
