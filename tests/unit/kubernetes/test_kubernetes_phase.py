"""Agents that start together, as after a rollout, do not ask the API server together."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from retina_otel.kubernetes.api.watch import Timing, Watcher
from retina_otel.kubernetes.objects import Kind
from tests.unit.kubernetes.test_kubernetes_stopping import silent

AGENTS = 30
AFTER_S, PHASE_S = 0.2, 1.0


def test_watchers_that_start_together_ask_spread_over_the_phase(tmp_path: Path) -> None:
    timing = Timing(after_s=AFTER_S, phase_s=PHASE_S)
    with ExitStack() as stack:
        listening, access = stack.enter_context(silent(tmp_path))
        listening.settimeout(30)
        watchers = [
            Watcher(access, Kind.POD, on_change=print, on_state=print, timing=timing)
            for _ in range(AGENTS)
        ]
        started = time.monotonic()
        for watcher in watchers:
            watcher.start()
            stack.callback(watcher.stop)
        arrivals = []
        for _ in watchers:
            asked, _ = listening.accept()
            stack.callback(asked.close)
            arrivals.append(time.monotonic() - started)
    # A busy machine makes them later, and so no nearer to each other than half of the phase: that
    # all thirty fall into one half by chance happens once in tens of millions of runs.
    assert arrivals[0] >= AFTER_S
    assert arrivals[-1] - arrivals[0] >= PHASE_S / 2
