"""The agent's own metrics: totals that are watched, and what becomes of them at a reload."""

from __future__ import annotations

import numpy as np

from retina_otel.agent import own_metrics as own
from retina_otel.agent.status import StatusBoard
from retina_otel.agent.telemetry import OwnTelemetry
from retina_otel.model.batches import Window
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
