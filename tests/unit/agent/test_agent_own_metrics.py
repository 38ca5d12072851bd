"""The agent's own metrics: totals that are watched, and what becomes of them at a reload."""

from __future__ import annotations

import numpy as np

from retina_otel.agent import own_metrics as own
from retina_otel.agent.logs import logger_for
from retina_otel.agent.status import StatusBoard
from retina_otel.agent.telemetry import OwnTelemetry
from retina_otel.component import ComponentKind
from retina_otel.model.batches import Column, Window
from retina_otel.model.signals import Metric
from retina_otel.pipeline.ledger import Ledger


def counted(telemetry: OwnTelemetry, account: str) -> int:
    """What one collection adds to an account."""
    sums = 0
    for batch in telemetry.collect(Window(1, 2), now=True).metrics:
        if own.LEDGER_COUNT in batch.values:
            accounts = batch.own[own.LEDGER_ACCOUNT.name]
            wanted = np.array(accounts.values)[accounts.codes] == account
            values = batch.values[own.LEDGER_COUNT]
            assert isinstance(values, np.ndarray)
            sums += int(values[wanted].sum())
    return sums


def test_a_total_goes_on_when_a_reload_replaces_who_keeps_it() -> None:
    """A counter that falls is a loss to who sums its increments."""
    board = StatusBoard()
    telemetry = OwnTelemetry(board, list, 1.0)
    added = []
    for amounts in ((100, 1), (3, 4), (2,)):
        ledger = Ledger("pipeline/metrics", "rows")
        board.keep_ledger(ledger.name, ledger)
        for amount in amounts:
            ledger.add(seen=amount)
            added.append(counted(telemetry, "seen"))
    telemetry.close()
    assert added == [100, 1, 3, 4, 2]


def told(telemetry: OwnTelemetry, *metrics: Metric) -> list[dict[tuple[object, ...], float]]:
    """What one collection tells of each metric, by attributes in the order of their names."""
    found: dict[Metric, dict[tuple[object, ...], float]] = {metric: {} for metric in metrics}
    for batch in telemetry.collect(Window(1, 2), now=True).metrics:
        columns = [one for _, one in sorted(batch.own.items()) if isinstance(one, Column)]
        for metric in found.keys() & batch.values.keys():
            for row, value in enumerate(np.asarray(batch.values[metric]).tolist()):
                codes = [(column, column.codes[row]) for column in columns]
                found[metric][tuple(c.values[code] for c, code in codes if code >= 0)] = value
    return list(found.values())


def test_what_may_be_lost_is_told_from_zero_on() -> None:
    """Whoever scrapes knows no start: the first value of a series is no increase to them."""
    board = StatusBoard()
    telemetry = OwnTelemetry(board, list, 1.0)
    ledger = board.ledger("exporter/otlp_http", "points")
    ledger.may_lose("asleep")
    ledger.may_fail("events", "shed")
    account = (("lost", "exporter/otlp_http", reason) for reason in ("asleep", "events_shed"))
    asleep, shed = ((*one, "points") for one in account)
    seen = []
    for _ in range(2):
        counts, exported = told(telemetry, own.LEDGER_COUNT, own.EVENTS_EXPORTED)
        seen += [{key: n for key, n in counts.items() if key[0] == "lost"}, exported]
        ledger.add_export("events", exported=7, failed={"shed": 3})
    telemetry.close()
    exporter = ("otlp_http", "otlp_http_log_exporter")
    assert seen == [
        {asleep: 0, shed: 0},
        {exporter: 0, ("shed", *exporter): 0},
        {asleep: 0, shed: 3},
        {exporter: 7, ("shed", *exporter): 3},
    ]


def test_coverage_is_told_with_what_it_rests_on_and_ends_with_its_receiver() -> None:
    board = StatusBoard()
    telemetry = OwnTelemetry(board, list, 1.0)
    key = (ComponentKind.RECEIVER, "flows")
    board.add(key, logger_for("receiver", "flows"))
    board.ledger("receiver/flows", "packets").set_coverage({"eth0": (3, 4)})
    at = ("eth0", "receiver/flows")
    assert told(telemetry, own.COVERAGE, own.COVERAGE_PACKETS) == [{at: 0.75}, {at: 4}]
    board.remove(key)
    assert told(telemetry, own.COVERAGE, own.COVERAGE_PACKETS) == [{}, {}]
    telemetry.close()
