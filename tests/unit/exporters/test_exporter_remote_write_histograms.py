"""prometheus_remote_write with `native_histograms`: a point is one, whatever the backend says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np
import pytest

from retina_otel.model.batches import Column, Histogram, MetricBatch, Window
from retina_otel.model.signals import Kind, Metric
from retina_otel.testing.exporters import WHO
from retina_otel.testing.remote_write import V1, V2
from tests.unit.exporters.remote_write_receiver import (
    HISTOGRAMS,
    WRITTEN,
    Answer,
    Receiver,
    Running,
)

BOUNDARIES = (0.5, 2.0)
METRIC = Metric("test.size", Kind.HISTOGRAM, "s", "Size.", (WHO,), scope="t", boundaries=BOUNDARIES)
ROWS: dict[str, tuple[float, tuple[int, ...]]] = {"a": (9.5, (0, 2, 3)), "b": (0.25, (1, 0, 0))}


@contextmanager
def sent(receiver: Receiver, rows: Mapping[str, Any] = ROWS) -> Iterator[Running]:
    """What came of histograms, each with a zero before it, that were sent to the end."""
    with ExitStack() as stack:
        stack.enter_context(closing(receiver))
        running = Running(
            receiver.endpoint,
            protocol="2.0",
            native_histograms=True,
            interval="10s",
            target_info=False,
        )
        source = running.source
        end_ns = source.now_ns()
        values = Histogram(
            np.array([counts for _, counts in rows.values()], np.int64),
            np.array([total for total, _ in rows.values()], np.float64),
        )
        who = Column(np.arange(len(rows), dtype=np.int32), tuple(rows))
        source.accumulator.add(
            MetricBatch(Window(end_ns - 10**9, end_ns), {METRIC: values}, own={WHO.name: who})
        )
        source.accumulator.snapshot(end_ns)
        running.stop()
        yield running


def native(receiver: Receiver) -> dict[str, list[tuple[float, tuple[int, ...]]]]:
    """Sums and counts of each series, in order."""
    out: dict[str, list[tuple[float, tuple[int, ...]]]] = {}
    for request in receiver.requests:
        for series in request.series:
            assert series.name == "test_size_seconds"
            told = out.setdefault(dict(series.labels)["test_who"], [])
            told += [(each.sum, each.counts) for each in series.histograms]
    return out


WHOLE = {who: [(0.0, (0, 0, 0)), row] for who, row in ROWS.items()}


def test_each_is_one_point_of_the_ledger() -> None:
    receiver = Receiver()
    with sent(receiver) as running:
        assert native(receiver) == WHOLE
        assert receiver.requests[0].n_histograms == 4
        ledger = running.ledger
        assert (ledger.difference, ledger.drained, dict(ledger.lost)) == (0, 4, {})
        assert running.bench.reasons == []


def test_those_that_a_backend_did_not_write_are_counted() -> None:
    receiver = Receiver()
    receiver.answers.append(Answer(400, {WRITTEN: "0", HISTOGRAMS: "3"}, b"out of order"))
    with sent(receiver) as running:
        ledger = running.ledger
        assert (ledger.difference, ledger.drained) == (0, 3)
        assert dict(ledger.lost) == {"points_rejected": 1}
        assert [status for status, _ in receiver.seen] == [400]


def test_a_request_that_is_too_large_is_halved() -> None:
    receiver = Receiver()
    receiver.answers += [Answer(413, takes=False)] * 2
    rows = {f"s{n}": (n / 2, (n, 0, 2 * n)) for n in range(1, 101)}
    with sent(receiver, rows) as running:
        assert native(receiver) == {who: [(0.0, (0, 0, 0)), row] for who, row in rows.items()}
        # The zeros come first, and are shorter.
        sizes = [each.n_histograms for each in receiver.requests]
        assert sizes == [50, 50, 25, 25, 25, 25]
        assert (running.ledger.difference, running.ledger.drained) == (0, 200)
        assert dict(running.ledger.lost) == {}


@pytest.mark.parametrize("kind", ["1", "deaf"])
def test_a_backend_of_version_1_is_given_buckets_and_nothing_is_lost(kind: str) -> None:
    receiver = Receiver(kind)
    with sent(receiver) as running:
        (request,) = receiver.requests
        assert (request.version, [version for _, version in receiver.seen]) == (V1, [V2, V1])
        found: dict[str, dict[str, list[float]]] = {who: {} for who in ROWS}
        for series in request.series:
            labels = dict(series.labels)
            which = labels.get("le", series.name.removeprefix("test_size_seconds"))
            told = found[labels["test_who"]].setdefault(which, [])
            told += [sample.value for sample in series.samples]
        assert found == {
            "a": {"0.5": [0, 0], "2": [0, 2], "+Inf": [0, 5], "_count": [0, 5], "_sum": [0, 9.5]},
            "b": {"0.5": [0, 1], "2": [0, 1], "+Inf": [0, 1], "_count": [0, 1], "_sum": [0, 0.25]},
        }
        ledger = running.ledger
        assert (ledger.difference, ledger.drained, dict(ledger.lost)) == (0, 4, {})
