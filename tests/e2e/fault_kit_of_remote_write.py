"""prometheus_remote_write with a receiver of either version, for the tests of faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from retina_otel.component import Context, Exporter
from retina_otel.exporters.prometheus_remote_write import (
    PrometheusRemoteWriteExporter,
    PrometheusRemoteWriteSettings,
)
from retina_otel.testing.remote_write import NotRemoteWrite, Sample, WriteRequest, check_order
from tests.e2e.fault_kit import REMOTE_WRITE_VERDICTS, Kit
from tests.e2e.remote_write_sink import Came, RemoteWriteSink, Reply


class RemoteWriteKit(Kit):
    name = "prometheus_remote_write"
    has_events = False
    verdicts = REMOTE_WRITE_VERDICTS
    verdicts_with_wait = REMOTE_WRITE_VERDICTS
    protocol = "1.0"

    def __init__(self) -> None:
        self.sink = RemoteWriteSink()
        self.port = self.sink.port

    @classmethod
    def make(
        cls, port: int, scheme: str = "http", **settings: Any
    ) -> Callable[[Context], Exporter]:
        settings.pop("events_interval", None)
        endpoint = f"{scheme}://127.0.0.1:{port}/api/v1/write"
        chosen = PrometheusRemoteWriteSettings.model_validate(
            {"endpoint": endpoint, "protocol": cls.protocol, **settings}
        )
        return lambda context: PrometheusRemoteWriteExporter(chosen, context)

    def fail(self, status: int, retry_after_s: float | None = None) -> None:
        self.sink.always = Reply(status, retry_after_s)

    def reject(self, n: int) -> None:
        self.sink.script.append(Reply(400, not_written=n))

    def delay(self, seconds: float) -> None:
        self.sink.always = Reply(delay_s=seconds)

    def work(self) -> None:
        self.sink.always = Reply()

    def wait_for(self, condition: Callable[[], object]) -> None:
        self.sink.wait_for(condition)

    def close(self) -> None:
        self.sink.close()

    def sums(self) -> dict[str, int]:
        newest: dict[str, Sample] = {}
        for request in self._taken():
            for series in request.series:
                labels = dict(series.labels)
                if labels["__name__"] == "test_packets_total":
                    newest[labels["test_who"]] = series.samples[-1]
        return {who: int(sample.value) for who, sample in newest.items()}

    def numbers(self) -> list[int]:
        return []

    def items(self, unit: str, *, accepted: bool) -> int:
        if unit == "events":
            return 0
        return sum(
            len(series.samples)
            for request in self._settled()
            if request.taken is accepted
            for series in request.message.series
            if series.name != "target_info"
        )

    def requests(self, unit: str, *, accepted: bool) -> int:
        if unit == "events":
            return 0
        return sum(request.taken is accepted for request in self.sink.requests)

    def faults(self, *, zero_first: bool = True) -> list[str]:
        try:
            check_order(self._taken())
        except NotRemoteWrite as error:
            return [*self.sink.faults, str(error)]
        return self.sink.faults

    def authorizations(self) -> list[str | None]:
        return [request.authorization for request in self.sink.requests]

    def _settled(self) -> list[Came]:
        """Without second tries: a request of 1.0 that gets a 400 is sent again without the zeros at
        the start of series, which may be what was wrong with it."""
        settled: list[Came] = []
        for request in self.sink.requests:
            before = settled[-1] if settled else None
            if before and before.status == 400 and _samples(request) < _samples(before):
                if not request.taken:
                    continue
                settled.pop()
            settled.append(request)
        return settled

    def _taken(self) -> list[WriteRequest]:
        """What came twice, because an answer was lost, counts once: a receiver ignores that."""
        taken = [request.message for request in self.sink.requests if request.taken]
        return list({request.series: request for request in taken}.values())


class RemoteWrite2Kit(RemoteWriteKit):
    name = "prometheus_remote_write-2"
    partly = "partial_write"
    protocol = "2.0"


def _samples(request: Came) -> set[Any]:
    return {
        (series.labels, sample) for series in request.message.series for sample in series.samples
    }
