"""The agent's own metrics: measured by the stock OpenTelemetry SDK, carried by our own exporters.

The SDK's instruments do the book-keeping (deltas of observed totals, histograms); at an interval
the tick thread reads them and hands on a batch, as a receiver would. So they reach each backend by
the same delivery, interval and temporality as the data: no second client runs in the agent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.resources import Resource

from retina_otel import __version__
from retina_otel.agent import own_metrics as own
from retina_otel.agent.resource import own_usage
from retina_otel.agent.routes import Route, folding, series
from retina_otel.agent.status import StatusBoard
from retina_otel.component import Collected, State
from retina_otel.model import batches
from retina_otel.model.attributes import ERROR_TYPE, K8S_NAMESPACE_NAME, NETWORK_INTERFACE_NAME
from retina_otel.model.batches import AttributeValue, Column, MetricBatch, Window
from retina_otel.model.signals import SCHEMA_URL, Kind, Metric
from retina_otel.pipeline.ledger import ExportCounts, LedgerReport
from retina_otel.pipeline.series.folding import FoldedOf

_CONVENTIONAL = {"prometheus": "prometheus_http_text"}
"""Types of exporters that the semantic conventions call otherwise."""
_SIGNALS = {"points": "metric", "events": "log"}
_Observe = Callable[[], Iterable[Observation]]
_DELTA: dict[type, AggregationTemporality] = {
    Counter: AggregationTemporality.DELTA,
    Histogram: AggregationTemporality.DELTA,
    ObservableCounter: AggregationTemporality.DELTA,
}


class OwnTelemetry:
    """`collect` on the tick thread; `measured`, `operated` and `reloaded` on any."""

    def __init__(
        self,
        board: StatusBoard,
        routes: Callable[[], Sequence[Route]],
        interval_s: float,
    ) -> None:
        """`routes()` gives the pipelines that run."""
        self._board = board
        self._routes = routes
        self._interval_ns = int(interval_s * 1e9)
        self._window_start_ns = 0
        self._reader = InMemoryMetricReader(preferred_temporality=_DELTA)
        self._provider = MeterProvider(
            [self._reader], resource=Resource({}), shutdown_on_exit=False
        )
        self._meter = self._provider.get_meter(own.SCOPE, __version__, SCHEMA_URL)
        self._collections = self._histogram(own.COLLECTION_DURATION)
        self._operations = self._histogram(own.EXPORTER_OPERATION_DURATION)
        self._folding: Iterable[tuple[str, FoldedOf]] = ()
        """What was told last to be folded."""
        self._reloading = threading.Lock()
        self._reloads = {"applied": 0, "refused": 0}
        self._observe(own.LEDGER_COUNT, self._ledger_counts)
        self._observe(own.LEDGER_DIFFERENCE, self._ledger_differences)
        self._observe(own.LEDGER_HELD, self._ledger_held)
        self._observe(own.LEDGER_BESIDE, self._ledger_beside)
        self._observe(own.POINTS_EXPORTED, lambda: self._exported("points"))
        self._observe(own.EVENTS_EXPORTED, lambda: self._exported("events"))
        self._observe(own.EXPORTER_REQUESTS, self._requests)
        self._observe(own.EXPORTER_REQUEST_IO, self._request_io)
        self._observe(own.COVERAGE, self._coverage)
        self._observe(own.COVERAGE_PACKETS, self._coverage_packets)
        self._observe(own.COMPONENT_STATUS, self._component_states)
        self._observe(own.COMPONENT_FAILURES, self._component_failures)
        self._observe(own.PIPELINE_SERIES, self._pipeline_series)
        self._observe(own.FOLDED_SERIES, self._folded_series)
        self._observe(own.FOLDED_IO, self._folded_io)
        self._observe(own.CONFIG_RELOADS, self._reload_counts)
        self._observe(own.PROCESS_CPU_TIME, self._cpu_time)
        self._observe(own.PROCESS_MEMORY_USAGE, self._memory)

    def set_interval(self, interval_s: float) -> None:
        self._interval_ns = int(interval_s * 1e9)

    def measured(self, receiver_id: str, seconds: float) -> None:
        """A receiver was collected from."""
        self._collections.record(seconds, {own.COMPONENT_ID.name: receiver_id})

    def operated(self, exporter_id: str, unit: str, seconds: float, error_type: str) -> None:
        """A request of an exporter has ended."""
        failed = {ERROR_TYPE.name: error_type} if error_type else {}
        self._operations.record(seconds, {**_exporter(exporter_id, unit), **failed})

    def reloaded(self, outcome: str) -> None:
        """The configuration was read again: "applied" or "refused"."""
        with self._reloading:
            self._reloads[outcome] += 1

    def collect(self, window: Window, *, now: bool = False) -> Collected:
        """All of them, if the interval has passed or `now`; else nothing."""
        start_ns = self._window_start_ns or window.start_ns
        # Half a tick of tolerance would be wrong for short intervals; a hair is enough for jitter.
        due_ns = self._window_start_ns + self._interval_ns * 99 // 100
        if not now and self._window_start_ns and window.end_ns < due_ns:
            return Collected()
        self._window_start_ns = window.end_ns
        return Collected(metrics=list(self._batches(Window(start_ns, window.end_ns))))

    def close(self) -> None:
        self._provider.shutdown()

    def _batches(self, window: Window) -> Iterator[MetricBatch]:
        data = self._reader.get_metrics_data()
        if data is None:
            return
        declared = {metric.name: metric for metric in own.OWN_METRICS}
        for resource_metrics in data.resource_metrics:
            for scope_metrics in resource_metrics.scope_metrics:
                for measured in scope_metrics.metrics:
                    metric = declared[measured.name]
                    points = [*measured.data.data_points]
                    if points:
                        yield MetricBatch(window, {metric: _values(metric, points)}, _own(points))

    def _histogram(self, metric: Metric) -> metrics.Histogram:
        return self._meter.create_histogram(
            metric.name,
            metric.unit,
            metric.brief,
            explicit_bucket_boundaries_advisory=list(metric.boundaries),
        )

    def _observe(self, metric: Metric, observe: _Observe) -> None:
        create = {
            Kind.COUNTER: self._meter.create_observable_counter,
            Kind.GAUGE: self._meter.create_observable_gauge,
            Kind.UPDOWN: self._meter.create_observable_up_down_counter,
        }[metric.kind]

        growing = _Growing()

        def callback(options: CallbackOptions) -> Iterable[Observation]:
            return growing.totals(observe()) if metric.kind is Kind.COUNTER else observe()

        create(metric.name, [callback], metric.unit, metric.brief)

    def _ledger_counts(self) -> Iterator[Observation]:
        for name, report in self._board.ledgers().items():
            base = {own.LEDGER_NAME.name: name, own.LEDGER_UNIT.name: report.unit}
            for account in ("seen", "drained", "filtered", "sampled"):
                yield Observation(
                    getattr(report, account), {**base, own.LEDGER_ACCOUNT.name: account}
                )
            # What may be lost is told from 0 on: a scrape knows no start, and takes the first value
            # of a series for no increase.
            lost = dict.fromkeys(report.may_lose, 0) | dict(report.lost)
            for account, reasons in (("not_ours", report.not_ours), ("lost", lost)):
                for reason, count in reasons.items():
                    yield Observation(
                        count,
                        {
                            **base,
                            own.LEDGER_ACCOUNT.name: account,
                            own.LEDGER_REASON.name: reason,
                        },
                    )

    def _ledger_differences(self) -> Iterator[Observation]:
        for name, report in self._board.ledgers().items():
            yield Observation(
                report.difference,
                {own.LEDGER_NAME.name: name, own.LEDGER_UNIT.name: report.unit},
            )

    def _ledger_held(self) -> Iterator[Observation]:
        for name, report in self._board.ledgers().items():
            yield Observation(
                report.held, {own.LEDGER_NAME.name: name, own.LEDGER_UNIT.name: report.unit}
            )

    def _ledger_beside(self) -> Iterator[Observation]:
        for name, report in self._board.ledgers().items():
            for reason, count in report.beside.items():
                yield Observation(
                    count,
                    {
                        own.LEDGER_NAME.name: name,
                        own.LEDGER_UNIT.name: report.unit,
                        own.LEDGER_REASON.name: reason,
                    },
                )

    def _exports(self) -> Iterator[tuple[str, dict[str, str], ExportCounts]]:
        """Units, the attributes of the exporter, and what it did with them."""
        for ledger_name, report in self._board.ledgers().items():
            for unit, counts in report.exports.items():
                yield unit, _exporter(ledger_name.partition("/")[2], unit), counts

    def _exported(self, wanted: str) -> Iterator[Observation]:
        for unit, exporter, counts in self._exports():
            if unit == wanted:
                failed = dict.fromkeys(counts.may_fail, 0) | dict(counts.failed)
                yield from _by_error_type(counts.exported, failed, exporter)

    def _requests(self) -> Iterator[Observation]:
        for _, exporter, counts in self._exports():
            passed = counts.requests - sum(counts.request_failures.values())
            yield from _by_error_type(passed, counts.request_failures, exporter)

    def _request_io(self) -> Iterator[Observation]:
        for _, exporter, counts in self._exports():
            yield Observation(counts.request_bytes, exporter)

    def _coverage(self) -> Iterator[Observation]:
        for name, report in self._reports_of_running():
            for interface, ratio in report.coverage.items():
                yield Observation(ratio, _at_interface(name, interface))

    def _coverage_packets(self) -> Iterator[Observation]:
        for name, report in self._reports_of_running():
            for interface, packets in report.compared.items():
                yield Observation(packets, _at_interface(name, interface))

    def _reports_of_running(self) -> Iterator[tuple[str, LedgerReport]]:
        """The ledger of a component that a reload has taken away stays, but what it compared is
        no longer so."""
        running = {f"{one.kind.value}/{one.id}" for one in self._board.components()}
        for name, report in self._board.ledgers().items():
            if name in running:
                yield name, report

    def _component_states(self) -> Iterator[Observation]:
        for status in self._board.components():
            for state in State:
                yield Observation(
                    int(state is status.state),
                    {
                        own.COMPONENT_KIND.name: status.kind.value,
                        own.COMPONENT_ID.name: status.id,
                        own.COMPONENT_STATE.name: state.value,
                    },
                )

    def _component_failures(self) -> Iterator[Observation]:
        for status in self._board.components():
            yield Observation(
                status.failures,
                {own.COMPONENT_KIND.name: status.kind.value, own.COMPONENT_ID.name: status.id},
            )

    def _pipeline_series(self) -> Iterator[Observation]:
        for name, count in series(self._routes()).items():
            yield Observation(count, {own.PIPELINE_NAME.name: name})

    def _folded_series(self) -> Iterator[Observation]:
        """What has found room again is told once as 0: where nothing else is folded, the last
        reading would stay until it is idle."""
        counts = {
            (pipeline, key): count
            for pipeline, folded in folding(self._routes()).items()
            for key, count in folded.series.items()
        }
        for (pipeline, key), count in (dict.fromkeys(self._folding, 0) | counts).items():
            yield Observation(count, _folded(pipeline, key))
        self._folding = counts.keys()

    def _folded_io(self) -> Iterator[Observation]:
        for pipeline, folded in folding(self._routes()).items():
            for key, amount in folded.io.items():
                yield Observation(amount, _folded(pipeline, key))

    def _reload_counts(self) -> Iterator[Observation]:
        """From 0 on: a scrape knows no start, and takes a first 1 for no increase."""
        for outcome, count in self._reloads.items():
            yield Observation(count, {own.RELOAD_OUTCOME.name: outcome})

    def _cpu_time(self) -> Iterator[Observation]:
        user, system, _ = own_usage()
        yield Observation(user, {own.CPU_MODE.name: "user"})
        yield Observation(system, {own.CPU_MODE.name: "system"})

    def _memory(self) -> Iterator[Observation]:
        yield Observation(own_usage()[2])


class _Growing:
    """Totals of one counter, which go on when those who keep them begin anew, as a pipeline does
    that a reload replaces."""

    def __init__(self) -> None:
        self._known: dict[frozenset[tuple[str, object]], tuple[float, float]] = {}
        """By attributes, the newest total, and what there was before its beginning."""

    def totals(self, observed: Iterable[Observation]) -> Iterator[Observation]:
        for one in observed:
            key = frozenset((one.attributes or {}).items())
            newest, before = self._known.get(key, (0, 0))
            if one.value < newest:
                before += newest
            self._known[key] = one.value, before
            yield Observation(one.value + before, one.attributes)


def _exporter(id_: str, unit: str) -> dict[str, str]:
    type_ = id_.partition("/")[0]
    type_ = _CONVENTIONAL.get(type_, type_)
    return {
        own.OTEL_COMPONENT_NAME.name: id_,
        own.OTEL_COMPONENT_TYPE.name: f"{type_}_{_SIGNALS[unit]}_exporter",
    }


def _at_interface(ledger: str, interface: str) -> dict[str, str]:
    return {own.LEDGER_NAME.name: ledger, NETWORK_INTERFACE_NAME.name: interface}


def _folded(pipeline: str, key: FoldedOf) -> dict[str, str]:
    metric, namespace = key
    named = {own.PIPELINE_NAME.name: pipeline, own.METRIC_NAME.name: metric}
    return named | {K8S_NAMESPACE_NAME.name: namespace} if namespace else named


def _by_error_type(
    passed: int, failed: Mapping[str, int], exporter: Mapping[str, str]
) -> Iterator[Observation]:
    yield Observation(passed, exporter)
    for why, count in failed.items():
        yield Observation(count, {**exporter, ERROR_TYPE.name: why})


_Point = NumberDataPoint | HistogramDataPoint


def _values(metric: Metric, points: Sequence[object]) -> batches.Values:
    histograms = [point for point in points if isinstance(point, HistogramDataPoint)]
    if metric.kind is Kind.HISTOGRAM:
        return batches.Histogram(
            np.array([point.bucket_counts for point in histograms], np.int64),
            np.array([point.sum for point in histograms], np.float64),
        )
    numbers = [point.value for point in points if isinstance(point, NumberDataPoint)]
    return np.array(numbers, np.int64) if metric.integer else np.array(numbers, np.float64)


def _own(points: Sequence[_Point]) -> dict[str, Column]:
    names = dict.fromkeys(name for point in points for name in (point.attributes or {}))
    columns = {}
    for name in names:
        codes = np.full(len(points), -1, np.int32)
        values: dict[AttributeValue, int] = {}
        for row, point in enumerate(points):
            value = (point.attributes or {}).get(name)
            if isinstance(value, (str, int, float)):
                codes[row] = values.setdefault(value, len(values))
        columns[name] = Column(codes, list(values))
    return columns
