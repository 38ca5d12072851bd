"""What a real accumulator gives over time is told in order, each sample once, by either version."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_otel.encode.remote_write import version_1 as remote_write
from retina_otel.encode.remote_write import version_2 as remote_write_2
from retina_otel.encode.remote_write.requests import RemoteWriteEncoder
from retina_otel.encode.remote_write.series import SeriesOptions
from retina_otel.model.batches import Column, MetricBatch, Window
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.testing.exporters import METRIC, WHO
from retina_otel.testing.remote_write import V1, V2, WriteRequest, check_order, decode_body

_S = 10**9
IDLE_S = 20
RESOURCE = {"service.name": "retina-otel", "k8s.node.name": "n"}
ENCODERS: dict[str, Callable[[SeriesOptions], RemoteWriteEncoder]] = {
    V1: remote_write.encoder,
    V2: remote_write_2.encoder,
}
NAMES = ("a", "b", "c")
TICKS = st.lists(
    st.tuples(
        st.sets(st.sampled_from(NAMES)),
        st.sampled_from([1, 5, IDLE_S + 1]),
        st.sampled_from(["nothing", "taken", "acknowledged", "acknowledged"]),
    ),
    min_size=3,
    max_size=14,
)


@pytest.mark.parametrize("version", ENCODERS)
@given(ticks=TICKS)
@settings(deadline=None, max_examples=80)
def test_series_that_come_and_go_are_told_in_order_and_add_up(
    version: str, ticks: list[tuple[set[str], int, str]]
) -> None:
    """Exports that were taken and not acknowledged never arrived."""
    accumulator = Accumulator(EndpointTable(), AccumulatorSettings(idle_ns=IDLE_S * _S))
    reader = accumulator.reader("test")
    encoder = ENCODERS[version](SeriesOptions(RESOURCE))
    arrived: list[WriteRequest] = []
    truth: dict[str, int] = {}
    now_ns = 1_800_000_000 * _S
    for number, (names, seconds, what) in enumerate([*ticks, (set(NAMES), 1, "acknowledged")]):
        before_ns, now_ns = now_ns, now_ns + seconds * _S
        chosen = sorted(names)
        if chosen:
            amounts = np.arange(number + 1, number + 1 + len(chosen))
            column = Column(np.arange(len(chosen), dtype=np.int32), tuple(chosen))
            accumulator.add(
                MetricBatch(Window(before_ns, now_ns), {METRIC: amounts}, own={WHO.name: column})
            )
            for name, amount in zip(chosen, amounts.tolist(), strict=True):
                truth[name] = truth.get(name, 0) + amount
        accumulator.snapshot(now_ns)
        if what == "nothing":
            continue
        export = reader.take()
        assert export is not None
        requests = [
            decode_body(each.body, version) for each in encoder.requests(export.blocks, 1 << 20)
        ]
        if what == "acknowledged":
            arrived += requests
            reader.acknowledge(export)
    check_order(arrived)
    assert increases(arrived) == truth


def increases(requests: list[WriteRequest]) -> dict[str, float]:
    """What each series grew by, from its zeros on, as a reader of Prometheus would add it up."""
    out: dict[str, float] = {}
    last: dict[str, float] = {}
    for request in requests:
        for series in request.series:
            if series.name == "target_info":
                continue
            who = dict(series.labels)[WHO.name.replace(".", "_")]
            for sample in series.samples:
                if sample.stale:
                    continue
                grown = sample.value - last.get(who, 0)
                out[who] = out.get(who, 0) + (grown if grown >= 0 else sample.value)
                last[who] = sample.value
    return out
